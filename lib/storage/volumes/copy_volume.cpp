// SPDX-License-Identifier: MIT
#include "storage/volumes/copy_volume.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/qemu/block_job.h"
#include "storage/qemu/helper.h"
#include "storage/qemu/workplace.h"
#include "storage/volumes/copy_file.h"

namespace volchain::storage {
namespace {

constexpr const char* target_node = "copy";

async::Task<bool> try_reflink(Engine& engine, CopyOrder order) {
    const Catalog& catalog = engine.catalog();
    if (!may_be_reflink(catalog, order)) co_return false;
    const VolumeRecord& source = catalog.volume(order.source);
    auto work = [target = order.target, pool = catalog.pool(source.pool).path, file = source.file] {
        return reflink_file(pool, file, target);
    };
    co_return co_await engine.files().run(std::move(work));
}

/// Bitmaps tell of a history that the copy does not have.
async::Task<> drop_bitmaps(Engine& engine, CopyOrder order) {
    std::vector<std::string> names;
    for (const qcow2::Bitmap& bitmap : engine.catalog().facts(order.source).bitmaps)
        names.push_back(bitmap.name);
    if (names.empty()) co_return;
    const auto helper = co_await start_storage_daemon(engine, order.target.path());
    const auto session = helper->session();
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    const qmp::NodeOptions plain;
    Json file = qmp::file_node("file", order.target.path(), qmp::Access::read_write, plain);
    Json node = qmp::format_node(target_node, "qcow2", std::move(file), qmp::Access::read_write, plain);
    (void)co_await session->execute("blockdev-add", std::move(node), soon);
    for (const std::string& name : names) {
        Json bitmap;
        bitmap["node"] = target_node;
        bitmap["name"] = name;
        (void)co_await session->execute("block-dirty-bitmap-remove", std::move(bitmap), soon);
    }
    const bool clean = co_await helper->stop(soon);
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
}

/// What is zero stays unallocated where the image is to be sparse: a mirror begins by discarding the target.
Json node_to_fill(const CopyOrder& order) {
    qmp::NodeOptions options;
    options.discard = order.image.preallocation == Preallocation::off;
    return qmp::format_node(target_node, word(order.image.format), std::string(target_node) + "-f",
                            qmp::Access::read_write, options);
}

async::Task<> fill_by_mirror(Engine& engine, JobPtr job, std::shared_ptr<Workplace> place, CopyOrder order,
                             std::uint64_t done_before, std::uint64_t total) {
    co_await format_image(engine, job, place->session(), order.target, order.image, target_node);
    Json node = node_to_fill(order);
    (void)co_await place->session()->execute("blockdev-add", std::move(node),
                                             async::after(engine.settings().command_timeout));
    BlockJob block_job(engine, job, place->session(), "copy", order.target.path());
    block_job.count(done_before, total);
    co_await block_job.mirror(place->root(), target_node, "full");
}

async::Task<> mirror(Engine& engine, JobPtr job, CopyOrder order, std::uint64_t done_before,
                     std::uint64_t total) {
    const std::shared_ptr<Workplace> place =
        co_await Workplace::open_to_copy(engine, order.source, order.target.path());
    std::exception_ptr failure;
    co_await async::keep_failure(fill_by_mirror(engine, job, place, order, done_before, total), failure);
    // Also after a failure: what is removed then takes room until nobody has it open.
    std::exception_ptr disorder;
    co_await async::keep_failure(place->close(), disorder);
    if (failure) std::rethrow_exception(failure);
    if (disorder) std::rethrow_exception(disorder);
}

}  // namespace

bool may_be_reflink(const Catalog& catalog, const CopyOrder& order) {
    const VolumeFacts& facts = catalog.facts(order.source);
    const ImageOptions& image = order.image;
    if (facts.backing || catalog.volume(order.source).format != image.format) return false;
    if (image.preallocation != Preallocation::off || image.compression) return false;
    if (!facts.header) return true;
    const qcow2::Header& header = *facts.header;
    // Snapshots inside of the image would go along.
    return header.snapshot_count == 0 && !header.features.dirty &&
           header.features.extended_l2 == image.extended_l2 &&
           header.cluster_size() == image.cluster_size.value_or(header.cluster_size());
}

std::uint64_t copy_cost(const Catalog& catalog, const Uuid& source) {
    std::uint64_t bytes = 0;
    for (const Uuid& layer : catalog.chain(source)) bytes += catalog.facts(layer).allocated;
    return std::min(bytes, catalog.facts(source).size);
}

async::Task<bool> copy_volume(Engine& engine, JobPtr job, CopyOrder order, std::uint64_t done_before,
                              std::uint64_t total) {
    const Catalog& catalog = engine.catalog();
    const VolumeRecord& source = catalog.volume(order.source);
    auto make = [target = order.target, pool = catalog.pool(source.pool).path, file = source.file] {
        make_image_file_like(target, pool, file);
    };
    co_await engine.files().run(std::move(make));
    const bool linked = co_await try_reflink(engine, order);
    if (linked)
        co_await drop_bitmaps(engine, order);
    else
        co_await mirror(engine, job, order, done_before, total);
    auto flush = [target = order.target] { flush_image_file(target); };
    co_await engine.files().run(std::move(flush));
    co_return linked;
}

}  // namespace volchain::storage
