// SPDX-License-Identifier: MIT
#include "storage/volumes/measure_volume.h"

#include <algorithm>

#include "qcow2/empty_image.h"
#include "qcow2/image_size.h"

namespace volchain::storage {
namespace {

void check_options(const MeasureRequest& request) {
    if (request.format != VolumeFormat::raw) return;
    const auto refuse = [](std::string_view option) {
        throw Error(ErrorCode::invalid_argument, "option '{}' is for qcow2 only", option);
    };
    if (request.cluster_size) refuse("cluster-size");
    if (request.extended_l2) refuse("extended-l2");
    if (request.bitmaps) refuse("bitmaps");
}

qcow2::ImageShape shape_of(const MeasureRequest& request) {
    qcow2::ImageShape shape;
    shape.cluster_size = request.cluster_size.value_or(shape.cluster_size);
    shape.extended_l2 = request.extended_l2;
    return shape;
}

/// Throws InvalidArgument where there can be no such image.
void check_shape(std::uint64_t virtual_size, const qcow2::ImageShape& shape) {
    qcow2::EmptyImageOptions options(raw_disk_size(virtual_size));
    options.cluster_size = shape.cluster_size;
    options.extended_l2 = shape.extended_l2;
    (void)qcow2::empty_image(options);
}

/// What a chain holds, counted in clusters of another image.
class ClusterScan {
  public:
    ClusterScan(const ChainFiles& files, std::uint64_t cluster_size)
        : chain_(files), map_(chain_.map(0, chain_.size())), counter_(cluster_size) {}

    /// Whether this was the last slice.
    bool run_slice() {
        const async::Deadline deadline = async::after(slice_limit);
        const std::uint64_t size = virtual_size();
        while (reached_ < size && async::Clock::now() < deadline) {
            const qcow2::ChainExtent extent = map_.at(reached_, size);
            if (extent.kind == qcow2::LayerKind::data) counter_.add(extent);
            reached_ += extent.length;
        }
        return reached_ == size;
    }
    [[nodiscard]] std::uint64_t virtual_size() { return chain_.virtual_size(); }
    [[nodiscard]] std::uint64_t bytes() const { return counter_.bytes(); }

  private:
    OpenChain chain_;
    qcow2::ChainMap map_;
    qcow2::ClusterCounter counter_;
    std::uint64_t reached_ = 0;
};

/// Those that "qemu-img convert --bitmaps" would copy. Of a disk in a running VM, QEMU has them.
std::vector<qcow2::BitmapShape> bitmaps_of(Engine& engine, const Uuid& volume) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& disk = catalog.disk(catalog.volume(volume).disk);
    const bool written = disk.active == volume && disk.vm && engine.vm(disk.vm).live();
    const LiveDisk* const live =
        written ? engine.vm(disk.vm).find_disk(catalog.path(catalog.volume(volume))) : nullptr;
    std::vector<qcow2::BitmapShape> shapes;
    if (live != nullptr) {
        for (const qmp::DirtyBitmap& bitmap : live->active().bitmaps)
            if (bitmap.persistent && !bitmap.inconsistent)
                shapes.push_back({bitmap.name.size(), bitmap.granularity});
        return shapes;
    }
    for (const qcow2::Bitmap& bitmap : catalog.facts(volume).bitmaps)
        if (!bitmap.in_use) shapes.push_back({bitmap.name.size(), bitmap.granularity});
    return shapes;
}

Measured result_of(ClusterScan& scan, const MeasureRequest& request,
                   const std::vector<qcow2::BitmapShape>& bitmaps) {
    const std::uint64_t size = scan.virtual_size();
    Measured measured;
    if (request.format == VolumeFormat::raw) {
        measured.required = measured.full = size;
        return measured;
    }
    const qcow2::ImageShape shape = shape_of(request);
    const std::uint64_t data = (size + shape.cluster_size - 1) / shape.cluster_size * shape.cluster_size;
    measured.full = qcow2::full_image_bytes(size, shape);
    measured.required = measured.full - data + scan.bytes();
    if (!request.bitmaps) return measured;
    const std::uint64_t more = qcow2::bitmap_bytes(bitmaps, size, shape);
    measured.full += more;
    measured.required += more;
    return measured;
}

async::Task<Measured> measure_once(Engine& engine, Uuid volume, MeasureRequest request) {
    const ChainFiles chain = co_await settle_chain(engine, volume);
    auto scan = std::make_shared<std::optional<ClusterScan>>();
    std::function<bool()> slice = [scan, chain, request] {
        if (!*scan) scan->emplace(chain, shape_of(request).cluster_size);
        return request.format == VolumeFormat::raw || (*scan)->run_slice();
    };
    const Uuid pool = engine.catalog().volume(volume).pool;
    const ObjectId subject{ObjectKind::volume, volume};
    co_await run_slices(engine, pool, std::move(slice), "measuring " + engine.catalog().describe(subject));
    co_return result_of(**scan, request, bitmaps_of(engine, volume));
}

}  // namespace

async::Task<Measured> measure_volume(Engine& engine, Uuid volume, MeasureRequest request) {
    check_options(request);
    if (request.format == VolumeFormat::qcow2)
        check_shape(engine.catalog().facts(volume).size, shape_of(request));
    std::function<async::Task<Measured>()> once = [&engine, volume, request] {
        return measure_once(engine, volume, request);
    };
    std::vector<Uuid> volumes(1, volume);
    co_return co_await read_chains<Measured>(engine, std::move(volumes), std::move(once));
}

}  // namespace volchain::storage
