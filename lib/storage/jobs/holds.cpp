// SPDX-License-Identifier: MIT
#include "storage/jobs/holds.h"

#include <algorithm>

namespace volchain::storage {
namespace {

/// Operations on a disk that only add to its volumes, or read them.
constexpr std::array<std::string_view, 6> harmless{"create-snapshot", "create-overlay",  "attach-disk",
                                                   "clone-volume",    "checksum-volume", "start-backup"};

}  // namespace

Holds::Hold Holds::take(std::vector<Uuid> volumes, std::string holder) {
    for (const Uuid& volume : volumes) {
        const ObjectId disk{ObjectKind::disk, catalog_.volume(volume).disk};
        const Uuid job = locks_.job_holding(disk);
        if (job.nil()) continue;
        // It has its locks before it has its record.
        if (!catalog_.has({ObjectKind::job, job}))
            throw Error(ErrorCode::busy, "{} is busy: job {} begins", catalog_.describe(disk), job.str());
        const std::string& kind = catalog_.job(job).kind;
        if (std::find(harmless.begin(), harmless.end(), kind) == harmless.end())
            throw Error(ErrorCode::busy, "{} is busy: {}, job {}", catalog_.describe(disk), kind, job.str());
    }
    all_.emplace(++last_, Entry{std::move(volumes), std::move(holder)});
    return {*this, last_};
}

bool Holds::held(const Uuid& volume) const {
    return std::any_of(all_.begin(), all_.end(), [&](const auto& entry) {
        const std::vector<Uuid>& volumes = entry.second.volumes;
        return std::find(volumes.begin(), volumes.end(), volume) != volumes.end();
    });
}

void Holds::check_free(const std::set<Uuid>& volumes) const {
    for (const auto& [number, entry] : all_)
        for (const Uuid& volume : entry.volumes)
            if (volumes.contains(volume))
                throw Error(ErrorCode::busy, "{} is being read by {}",
                            catalog_.describe({ObjectKind::volume, volume}), entry.holder);
}

}  // namespace volchain::storage
