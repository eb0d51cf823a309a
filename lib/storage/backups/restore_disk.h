// SPDX-License-Identifier: MIT
//
// The operation that begins the restore of a disk: an empty image is made and shown over NBD for writing, to whoever fills it from
// a backup. Until that is finished (end_restore.h) it is no volume: nobody else can use it, and its name is taken.
//
// Steps: file, format, server (the storage daemon), graph, show, finish. What fails on the way, or is broken off by a crash, is
// undone: nothing is left of it.
#pragma once

#include "storage/exports/export_request.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct RestoreRequest {
    RestoreRequest(const Uuid& in, std::string called, std::uint64_t bytes)
        : pool(in), name(std::move(called)), image(bytes), shown(0) {}

    Uuid pool;
    std::string name;  ///< of the disk that it will be
    ImageOptions image;
    ExportRequest shown;  ///< for whom, where, and for how long
};

/// The job's id. Its result: "backup" (the restore), "export", "uri".
async::Task<Uuid> restore_disk(Engine& engine, RestoreRequest request);

async::Task<> recover_restore_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_restore_disk(const JobRecord& job);

}  // namespace volchain::storage
