// SPDX-License-Identifier: MIT
#include "storage/volumes/map_volume.h"

#include <algorithm>

namespace volchain::storage {
namespace {

using Extents = std::vector<qcow2::ChainExtent>;

Extents read_extents(const ChainFiles& files, std::uint64_t start, std::uint64_t length) {
    OpenChain chain(files);
    const std::uint64_t size = chain.virtual_size();
    if (start > size)
        throw Error(ErrorCode::invalid_argument,
                    "argument 'start': {} is behind the end of the disk of {} bytes", start, size);
    const std::uint64_t end = length == 0 ? size : start + std::min(length, size - start);
    qcow2::ChainMap map = chain.map(0, chain.size());
    const async::Deadline deadline = async::after(slice_limit);
    Extents extents;
    for (std::uint64_t offset = start; offset < end;) {
        const qcow2::ChainExtent extent = map.at(offset, end);
        qcow2::append(extents, extent);
        offset += extent.length;
        if (extents.size() > max_map_extents) {
            extents.pop_back();
            break;
        }
        if (async::Clock::now() > deadline) break;
    }
    return extents;
}

async::Task<Extents> map_once(Engine& engine, Uuid volume, std::uint64_t start, std::uint64_t length) {
    ChainFiles chain = co_await settle_chain(engine, volume);
    const Uuid pool = engine.catalog().volume(volume).pool;
    auto work = [chain = std::move(chain), start, length] { return read_extents(chain, start, length); };
    co_return co_await read_images(engine, pool, std::move(work));
}

}  // namespace

std::string_view kind_word(qcow2::LayerKind kind) noexcept {
    switch (kind) {
        case qcow2::LayerKind::data:
            return "data";
        case qcow2::LayerKind::zero:
            return "zero";
        case qcow2::LayerKind::absent:
            break;
    }
    return "hole";
}

async::Task<Extents> map_volume(Engine& engine, Uuid volume, std::uint64_t start, std::uint64_t length) {
    std::function<async::Task<Extents>()> once = [&engine, volume, start, length] {
        return map_once(engine, volume, start, length);
    };
    std::vector<Uuid> volumes(1, volume);
    co_return co_await read_chains<Extents>(engine, std::move(volumes), std::move(once));
}

}  // namespace volchain::storage
