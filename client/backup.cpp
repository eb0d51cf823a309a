// SPDX-License-Identifier: MIT
//
// volchainctl backup: moments of VMs' disks that are held for programs that back them up.
#include <algorithm>

#include "client/backup_restore.h"
#include "client/backup_run.h"
#include "client/backup_verify.h"
#include "client/export.h"
#include "client/find_in_vm.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

async::Task<> list_backups(Session& session, Arguments arguments) {
    if (const auto directory = arguments.word(0)) co_return co_await list_moments(session, *directory);
    const Objects objects = co_await session.objects();
    std::vector<const Object*> backups = objects.of_kind("backup");
    std::stable_sort(backups.begin(), backups.end(), [](const Object* a, const Object* b) {
        return a->number("CreatedUsec") < b->number("CreatedUsec");
    });
    const std::vector<ListColumn> columns{"Id",    "VM",          "Kind",     "Checkpoint",  "Since",
                                          "Disks", "CreatedUsec", "OwnerUid", "Consistency", "State"};
    session.output().print(list_of("backup", objects, backups, columns));
}

async::Task<> start_backup(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("kind")
        .text("since")
        .text("quiesce")
        .duration("freeze-timeout")
        .text("checkpoint")
        .flag("require-incremental")
        .text("mode")
        .text("target")
        .flag("compress")
        .size("speed");
    if (const auto pool = arguments.value("target-pool")) {
        const bus::ObjectPath found = co_await session.find("pool", *pool);
        options.set("target-pool", found);
    }
    if (const auto user = arguments.value("allow-uid")) options.set("allow-uid", user_of(*user));
    if (const auto snapshot = arguments.value("snapshot")) {
        const bus::ObjectPath found = co_await session.find("snapshot", *snapshot);
        options.set("snapshot", found);
    }
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const Objects objects = co_await session.objects();
    std::vector<bus::ObjectPath> disks;
    for (const std::string& disk : arguments.values("disk")) {
        const bus::ObjectPath found = co_await find_disk_of(session, objects, vm, disk);
        disks.push_back(found);
    }
    options.objects("disks", disks);
    const auto job = co_await session.call<bus::ObjectPath>(vm, "StartBackup", options.dict());
    co_await finish_job(session, job, "backup");
}

async::Task<> finish_backup(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath backup = co_await session.find("backup", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(backup, "Finish", options.dict());
    co_await finish_job(session, job);
}

async::Task<> abort_backups(Session& session, Arguments arguments) {
    const auto backups = co_await session.find_all("backup", arguments.words_from(0));
    for (const bus::ObjectPath& backup : backups) {
        const auto job = co_await session.call<bus::ObjectPath>(backup, "Abort");
        co_await finish_job(session, job);
    }
}

}  // namespace

std::vector<Verb> backup_verbs() {
    return {
        {"backup", "list", "[DIRECTORY]",
         "list the moments that are held for backups, or those in a directory of backup run", list_backups},
        {"backup", "show", "BACKUP", "show all there is to say of a backup", show_object},
        {"backup",
         "start",
         "VM",
         "hold a moment of a VM's disks, to be read over NBD",
         start_backup,
         {{"kind", "full|incremental|differential", "what it is to be; full if not given"},
          {"since", "CHECKPOINT", "what changed since then; of an incremental one, the last if not given"},
          {"checkpoint", "NAME", "make a checkpoint of this moment"},
          {"disk", "DISK...", "only this disk, and others that are named so"},
          {"snapshot", "SNAPSHOT", "back up what the disks were at this snapshot"},
          {"quiesce", "auto|require|off",
           "freeze the guest meanwhile, if that can be, or in any case, or not"},
          {"freeze-timeout", "DURATION", "how long the freeze may take"},
          {"require-incremental", "", "fail rather than back a disk up in full"},
          {"allow-uid", "USER", "who may read, instead of you"},
          {"mode", "pull|push", "push: let QEMU write it into files, and wait for that"},
          {"target", "DIRECTORY", "of push: where the files go"},
          {"target-pool", "POOL", "or the pool that they go to"},
          {"compress", "", "of push: compress the data"},
          {"speed", "SIZE", "of push: how many bytes to copy a second, at most"}}},
        {"backup", "finish", "BACKUP", "let the moment go: all was read, and the checkpoint holds",
         finish_backup},
        {"backup", "run", "VM DIRECTORY",
         "back a VM up into a directory: what has changed, where that is known", run_backup,
         run_backup_options()},
        {"backup", "restore", "[DIRECTORY]",
         "make disks, and a VM, of what a directory of backup run, or an image, holds", restore_backup,
         restore_backup_options()},
        {"backup",
         "verify",
         "DIRECTORY",
         "see whether the moments in a directory of backup run can be restored",
         verify_backups,
         {{"moment", "MOMENT", "that one alone, and what it stands on"}}},
        {"backup", "abort", "BACKUP...", "let the moment go, and drop the checkpoint", abort_backups},
    };
}

}  // namespace volchain::client
