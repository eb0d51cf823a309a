// SPDX-License-Identifier: MIT
#include "storage/images/layer_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/header.h"
#include "qcow2/raw_layer_map.h"
#include "storage/images/image.h"

namespace volchain::storage {
namespace {

UniqueFd open_layer(const LayerFile& layer) {
    try {
        const UniqueFd pool = open_directory(layer.pool);
        return open_beneath(pool.get(), layer.file, O_RDONLY);
    } catch (const Error& error) {
        const ErrorCode code = error.code() == ErrorCode::not_found ? ErrorCode::broken_chain : error.code();
        throw Error(code, "volume {}: {}", quote(layer.path()), error.what());
    }
}

}  // namespace

LayerFile layer_file(const Catalog& catalog, const Uuid& volume) {
    const VolumeRecord& record = catalog.volume(volume);
    return {catalog.pool(record.pool).path, record.file, record.format};
}

OpenLayer::OpenLayer(const LayerFile& layer) : fd_(open_layer(layer)) {
    if (layer.format == VolumeFormat::raw) {
        map_ = std::make_unique<qcow2::RawLayerMap>(fd_.get());
        return;
    }
    source_ = std::make_unique<qcow2::FileSource>(fd_.get());
    try {
        const qcow2::Header header = qcow2::read_header(*source_);
        if (header.backing_file) backing_ = backing_reference(layer.pool, layer.file, header).path;
        map_ = std::make_unique<qcow2::Qcow2LayerMap>(*source_, header);
    } catch (const Error& error) {
        throw error.during("image " + quote(layer.path()));
    }
}

std::uint64_t OpenLayer::allocated() const {
    struct stat status {};
    return ::fstat(fd_.get(), &status) < 0 ? 0 : static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace volchain::storage
