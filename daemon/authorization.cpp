// SPDX-License-Identifier: MIT
#include "daemon/authorization.h"

#include <unistd.h>

#include <array>

#include "daemon/paths.h"

namespace volchain::daemon {
namespace {

// The actions are declared, with what the user is asked, in systemd/org.volchain1.policy.
constexpr std::string_view look = "org.volchain1.look";  // what anybody on the host may know
constexpr std::string_view read_config =
    "org.volchain1.read-config";  // a VM's configuration may hold secrets
// Which areas have data, and whether two disks are the same; and it may make the host read a lot.
constexpr std::string_view read_disks = "org.volchain1.read-disks";
constexpr std::string_view manage_pools = "org.volchain1.manage-pools";
constexpr std::string_view manage_disks = "org.volchain1.manage-disks";
constexpr std::string_view manage_vms = "org.volchain1.manage-vms";
constexpr std::string_view manage_snapshots = "org.volchain1.manage-snapshots";
constexpr std::string_view show_volumes = "org.volchain1.export";
constexpr std::string_view manage_jobs = "org.volchain1.manage-jobs";

struct Rule {
    std::string_view interface;
    std::string_view method;
    std::string_view action;
};

constexpr std::array rules{
    Rule{"org.volchain1.Manager", "CreatePool", manage_pools},
    Rule{"org.volchain1.Manager", "CreateSchedule", manage_snapshots},
    Rule{"org.volchain1.Manager", "Find", look},
    Rule{"org.volchain1.Manager", "ImportManifest", manage_vms},
    Rule{"org.volchain1.Manager", "RegisterVM", manage_vms},
    Rule{"org.volchain1.Manager", "RestoreDisk", manage_disks},
    Rule{"org.volchain1.Pool", "CreateDisk", manage_disks},
    Rule{"org.volchain1.Pool", "ImportDisk", manage_disks},
    Rule{"org.volchain1.Pool", "Refresh", manage_pools},
    Rule{"org.volchain1.Pool", "Remove", manage_pools},
    Rule{"org.volchain1.Disk", "Attach", manage_disks},
    Rule{"org.volchain1.Disk", "Check", manage_disks},
    Rule{"org.volchain1.Disk", "CreateOverlay", manage_disks},
    Rule{"org.volchain1.Disk", "CreateSnapshot", manage_snapshots},
    Rule{"org.volchain1.Disk", "Delete", manage_disks},
    Rule{"org.volchain1.Disk", "Detach", manage_disks},
    Rule{"org.volchain1.Disk", "Flatten", manage_disks},
    Rule{"org.volchain1.Disk", "Move", manage_disks},
    Rule{"org.volchain1.Disk", "Resize", manage_disks},
    Rule{"org.volchain1.Volume", "Checksum", read_disks},
    Rule{"org.volchain1.Volume", "Clone", manage_disks},
    Rule{"org.volchain1.Volume", "Commit", manage_disks},
    Rule{"org.volchain1.Volume", "Delete", manage_disks},
    Rule{"org.volchain1.Volume", "Export", show_volumes},
    Rule{"org.volchain1.Volume", "Map", read_disks},
    Rule{"org.volchain1.Volume", "Measure", read_disks},
    Rule{"org.volchain1.Volume", "Merge", manage_disks},
    Rule{"org.volchain1.VM", "CommitPreview", manage_snapshots},
    Rule{"org.volchain1.VM", "CreateSnapshot", manage_snapshots},
    Rule{"org.volchain1.VM", "DeleteCheckpoint", manage_snapshots},
    Rule{"org.volchain1.VM", "DeleteProfile", manage_snapshots},
    Rule{"org.volchain1.VM", "GetConfig", read_config},
    Rule{"org.volchain1.VM", "ImportSnapshotXML", manage_snapshots},
    Rule{"org.volchain1.VM", "LaunchArguments", look},
    Rule{"org.volchain1.VM", "Preview", manage_snapshots},
    Rule{"org.volchain1.VM", "Refresh", manage_vms},
    Rule{"org.volchain1.VM", "SaveProfile", manage_snapshots},
    Rule{"org.volchain1.VM", "SetConfig", manage_vms},
    Rule{"org.volchain1.VM", "StartBackup", show_volumes},
    Rule{"org.volchain1.VM", "UndoPreview", manage_snapshots},
    Rule{"org.volchain1.VM", "Unregister", manage_vms},
    Rule{"org.volchain1.VM", "Update", manage_vms},
    Rule{"org.volchain1.Snapshot", "Clone", manage_disks},
    Rule{"org.volchain1.Snapshot", "Delete", manage_snapshots},
    Rule{"org.volchain1.Snapshot", "Export", show_volumes},
    Rule{"org.volchain1.Snapshot", "Diff", read_disks},
    Rule{"org.volchain1.Snapshot", "DiffMap", read_disks},
    Rule{"org.volchain1.Snapshot", "GetConfig", read_config},
    Rule{"org.volchain1.Snapshot", "Preview", manage_snapshots},
    Rule{"org.volchain1.Snapshot", "Revert", manage_snapshots},
    Rule{"org.volchain1.Snapshot", "SetMetadata", manage_snapshots},
    Rule{"org.volchain1.Snapshot", "ToXML", read_config},
    Rule{"org.volchain1.Export", "Open", show_volumes},
    Rule{"org.volchain1.Export", "Renew", show_volumes},
    Rule{"org.volchain1.Export", "Stop", show_volumes},
    Rule{"org.volchain1.Backup", "Abort", show_volumes},
    Rule{"org.volchain1.Backup", "Finish", show_volumes},
    Rule{"org.volchain1.Backup", "GetConfig", read_config},
    Rule{"org.volchain1.Schedule", "Delete", manage_snapshots},
    Rule{"org.volchain1.Schedule", "RunNow", manage_snapshots},
    Rule{"org.volchain1.Schedule", "Update", manage_snapshots},
    Rule{"org.volchain1.Job", "Cancel", manage_jobs},
    Rule{"org.volchain1.Job", "Pause", manage_jobs},
    Rule{"org.volchain1.Job", "Resume", manage_jobs},
    Rule{"org.volchain1.Job", "SetSpeed", manage_jobs},
    Rule{"org.volchain1.Job", "Wait", look},
};

}  // namespace

std::optional<std::string_view> action_for(std::string_view interface, std::string_view method) noexcept {
    for (const Rule& rule : rules)
        if (rule.interface == interface && rule.method == method) return rule.action;
    return std::nullopt;
}

std::set<bus::Objects::MethodName> authorized_methods() {
    std::set<bus::Objects::MethodName> all;
    for (const Rule& rule : rules)
        all.insert(bus::Objects::MethodName{std::string(rule.interface), std::string(rule.method)});
    return all;
}

Authorization::Authorization(bus::Connection& connection, const storage::Engine& engine)
    : engine_(engine), polkit_(connection, ::geteuid() == 0) {}

async::Task<> Authorization::authorize(bus::Call call) {
    const auto action = action_for(call.interface(), call.member());
    if (!action) throw Error(ErrorCode::access_denied, "{} is not allowed to anybody", call.str());
    const bool own_job = co_await controls_own_job(call);
    if (own_job) co_return;
    const bool own_export = co_await uses_own_export(call);
    if (own_export) co_return;
    const bool own_backup = co_await ends_own_backup(call);
    if (own_backup) co_return;
    bus::Polkit::Details details;
    details.emplace("method", call.member());
    details.emplace("path", call.path());
    co_await polkit_.check(call, std::string(*action), std::move(details));
}

async::Task<bool> Authorization::controls_own_job(bus::Call call) {
    const auto action = action_for(call.interface(), call.member());
    if (call.interface() != interface_name(storage::ObjectKind::job) || action != manage_jobs)
        co_return false;
    const uid_t caller = co_await call.sender_uid();
    const auto& jobs = engine_.catalog().jobs();
    const auto found = jobs.find(call.object());
    co_return found != jobs.end() && found->second.owner_uid == caller;
}

/// Not more: the configuration of a VM is another matter.
async::Task<bool> Authorization::ends_own_backup(bus::Call call) {
    const auto action = action_for(call.interface(), call.member());
    if (call.interface() != interface_name(storage::ObjectKind::backup) || action != show_volumes)
        co_return false;
    const uid_t caller = co_await call.sender_uid();
    const auto& backups = engine_.catalog().backups();
    const auto found = backups.find(call.object());
    co_return found != backups.end() && found->second.owner_uid == caller;
}

/// Also who is allowed to connect may open it.
async::Task<bool> Authorization::uses_own_export(bus::Call call) {
    if (call.interface() != interface_name(storage::ObjectKind::exported)) co_return false;
    const uid_t caller = co_await call.sender_uid();
    const auto& exports = engine_.catalog().exports();
    const auto found = exports.find(call.object());
    if (found == exports.end()) co_return false;
    co_return found->second.owner_uid == caller ||
        (call.member() == "Open" && found->second.allowed_uid == caller);
}

}  // namespace volchain::daemon
