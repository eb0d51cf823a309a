// SPDX-License-Identifier: MIT
#include "storage/recovery.h"

#include "storage/backups/end_backup.h"
#include "storage/backups/restore_disk.h"
#include "storage/backups/start_backup.h"
#include "storage/checkpoints/delete_checkpoint.h"
#include "storage/checks/check_disk.h"
#include "storage/disks/attach_disk.h"
#include "storage/disks/create_disk.h"
#include "storage/disks/create_overlay.h"
#include "storage/disks/delete_disk.h"
#include "storage/disks/detach_disk.h"
#include "storage/disks/import_copy.h"
#include "storage/disks/move_disk.h"
#include "storage/disks/resize_disk.h"
#include "storage/exports/export_volume.h"
#include "storage/exports/stop_export.h"
#include "storage/memory/load_memory.h"
#include "storage/merges/remove_volumes.h"
#include "storage/previews/end_preview.h"
#include "storage/previews/preview.h"
#include "storage/records/preview_state.h"
#include "storage/snapshots/clone.h"
#include "storage/snapshots/create_snapshot.h"
#include "storage/volumes/checksum_volume.h"

namespace volchain::storage {
namespace {

struct Recovery {
    std::string_view kind;
    std::vector<ObjectId> (*locks)(const JobRecord&);
    async::Task<> (*run)(Engine&, JobPtr);
};

constexpr std::array recoveries{
    Recovery{"create-snapshot", locks_of_create_snapshot, recover_create_snapshot},
    Recovery{"create-overlay", locks_of_create_overlay, recover_create_overlay},
    Recovery{"delete-snapshot", locks_of_remove_volumes, recover_remove_volumes},
    Recovery{"merge-volume", locks_of_remove_volumes, recover_remove_volumes},
    Recovery{"commit-volume", locks_of_remove_volumes, recover_remove_volumes},
    Recovery{"delete-volume", locks_of_remove_volumes, recover_remove_volumes},
    Recovery{"flatten-disk", locks_of_remove_volumes, recover_remove_volumes},
    Recovery{"clone-snapshot", locks_of_clone, recover_clone},
    Recovery{"clone-volume", locks_of_clone, recover_clone},
    Recovery{"import-disk", locks_of_import_disk, recover_import_disk},
    Recovery{"create-disk", locks_of_create_disk, recover_create_disk},
    Recovery{"attach-disk", locks_of_attach_disk, recover_attach_disk},
    Recovery{"detach-disk", locks_of_detach_disk, recover_detach_disk},
    Recovery{"move-disk", locks_of_move_disk, recover_move_disk},
    Recovery{"resize-disk", locks_of_resize_disk, recover_resize_disk},
    Recovery{"delete-disk", locks_of_delete_disk, recover_delete_disk},
    Recovery{"checksum-volume", locks_of_checksum_volume, recover_checksum_volume},
    Recovery{"check-disk", locks_of_check_disk, recover_check_disk},
    Recovery{"delete-checkpoint", locks_of_delete_checkpoint, recover_delete_checkpoint},
    Recovery{"preview", locks_of_preview, recover_preview},
    Recovery{"revert", locks_of_preview, recover_preview},
    Recovery{"commit-preview", locks_of_preview, recover_end_of_preview},
    Recovery{"undo-preview", locks_of_preview, recover_end_of_preview},
    Recovery{"load-memory", locks_of_preview, recover_load_memory},
    Recovery{"export", locks_of_export_volume, recover_export_volume},
    Recovery{"start-backup", locks_of_start_backup, recover_start_backup},
    Recovery{"restore-disk", locks_of_restore_disk, recover_restore_disk},
    Recovery{"finish-backup", locks_of_end_backup, recover_end_backup},
    Recovery{"abort-backup", locks_of_end_backup, recover_end_backup},
    Recovery{"stop-export", locks_of_stop_export, recover_stop_export},
};

/// For operations that change nothing before their last commit: there is nothing to undo.
async::Task<> note_interrupted(Engine&, JobPtr job) {
    co_await job->fail(Changes{},
                       Error(ErrorCode::interrupted, "the daemon ended in the middle; nothing was changed"));
}

std::vector<ObjectId> nothing(const JobRecord&) {
    return {};
}

const Recovery& recovery_of(const std::string& kind) {
    static constexpr Recovery harmless{"", nothing, note_interrupted};
    for (const Recovery& recovery : recoveries)
        if (recovery.kind == kind) return recovery;
    return harmless;
}

}  // namespace

void resume_unfinished_jobs(Engine& engine) {
    for (const Uuid& id : engine.jobs().unfinished()) {
        const JobRecord& record = engine.catalog().job(id);
        const Recovery& recovery = recovery_of(record.kind);
        log()
            .with("VOLCHAIN_JOB", id.str())
            .notice("{} was left at step {}; recovering", record.kind, record.step);
        Operation operation = [&engine, run = recovery.run](JobPtr job) {
            return run(engine, std::move(job));
        };
        engine.jobs().resume(id, recovery.locks(record), std::move(operation));
    }
}

async::Task<> wait_for_recovery(Engine& engine, async::Deadline deadline) {
    std::exception_ptr timeout;
    for (const Uuid& id : engine.jobs().unfinished()) {
        const JobPtr job = engine.jobs().find(id);
        if (job) co_await async::keep_failure(job->wait_settled(deadline), timeout);
    }
    if (timeout)
        log().warning("some operations could not be settled yet: a QEMU does not answer; they go on");
}

}  // namespace volchain::storage
