// SPDX-License-Identifier: MIT
#include "storage/volumes/copy_room.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <map>

#include "base/file.h"
#include "base/text.h"
#include "storage/merges/merge_room.h"
#include "storage/volumes/measure_volume.h"

namespace volchain::storage {
namespace {

/// What one file system is to take.
struct Burden {
    std::string directory;  ///< one of those in it
    std::uint64_t room = 0;
    std::vector<CopyOrder> orders;
};

dev_t file_system_of(const std::string& directory) {
    const UniqueFd opened = open_directory(directory);
    struct stat status {};
    if (::fstat(opened.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(directory));
    return status.st_dev;
}

/// An order, and where its source is if it may be done by a reflink.
struct Candidate {
    CopyOrder order;
    std::string reflinked_from;
};

/// Blocking.
std::vector<Burden> burdens_of(const std::vector<Candidate>& candidates) {
    std::map<dev_t, Burden> all;
    for (const auto& [order, from] : candidates) {
        const dev_t device = file_system_of(order.target.pool);
        if (!from.empty() && file_system_of(from) == device) continue;
        Burden& burden = all[device];
        burden.directory = order.target.pool;
        burden.room = room_beside(order.target.path());
        burden.orders.push_back(order);
    }
    std::vector<Burden> burdens;
    for (auto& [device, burden] : all) burdens.push_back(std::move(burden));
    return burdens;
}

bool is_allocated_beforehand(const ImageOptions& image) {
    return image.preallocation == Preallocation::falloc || image.preallocation == Preallocation::full;
}

std::uint64_t bound(const Catalog& catalog, const CopyOrder& order) {
    return is_allocated_beforehand(order.image) ? order.image.size : copy_cost(catalog, order.source);
}

async::Task<std::uint64_t> measure(Engine& engine, CopyOrder order) {
    if (is_allocated_beforehand(order.image)) co_return order.image.size;
    // A raw image takes as much as a qcow2 one less its tables, which are a thousandth of it.
    MeasureRequest request;
    if (order.image.format == VolumeFormat::qcow2) {
        request.cluster_size = order.image.cluster_size;
        request.extended_l2 = order.image.extended_l2;
    }
    const Measured measured = co_await measure_volume(engine, order.source, request);
    co_return measured.required;
}

}  // namespace

async::Task<> check_room_for_copies(Engine& engine, std::vector<CopyOrder> orders) {
    std::vector<Candidate> candidates;
    for (CopyOrder& order : orders) {
        const Catalog& catalog = engine.catalog();
        const Uuid pool = catalog.volume(order.source).pool;
        const bool linkable = engine.pool_status(pool).reflink && may_be_reflink(catalog, order);
        candidates.push_back(Candidate{std::move(order), linkable ? catalog.pool(pool).path : std::string()});
    }
    auto look = [candidates = std::move(candidates)] { return burdens_of(candidates); };
    const std::vector<Burden> burdens = co_await engine.files().run(std::move(look));
    for (const Burden& burden : burdens) {
        std::uint64_t needed = 0;
        for (const CopyOrder& order : burden.orders) needed += bound(engine.catalog(), order);
        if (needed <= burden.room) continue;
        needed = 0;
        for (const CopyOrder& order : burden.orders) {
            const std::uint64_t bytes = co_await measure(engine, order);
            needed += bytes;
        }
        if (needed > burden.room)
            throw Error(
                ErrorCode::no_space,
                "the copies in {} take up to {} bytes, and {} are free in its file system; nothing was "
                "copied",
                quote(burden.directory), needed, burden.room);
    }
}

}  // namespace volchain::storage
