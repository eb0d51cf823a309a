// SPDX-License-Identifier: MIT
//
// volchainctl vm: virtual machines.
#include <filesystem>
#include <map>
#include <tuple>

#include "base/text.h"
#include "client/document.h"
#include "client/find_in_vm.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/snapshot_options.h"
#include "client/usage_error.h"
#include "client/verb.h"
#include "client/vm_tree.h"

namespace volchain::client {
namespace {

async::Task<> list_vms(Session& session, Arguments) {
    const Objects objects = co_await session.objects();
    const std::vector<ListColumn> columns{"Name",      "State",           "AgentState", "Disks",
                                          "Snapshots", "CurrentSnapshot", "Job"};
    session.output().print(list_of("VM", objects, objects.of_kind("vm"), columns));
}

/// Where it was given.
MethodOptions& set_nvram(MethodOptions& options, const Arguments& arguments) {
    std::vector<std::string> paths;
    for (const std::string& file : arguments.values("nvram"))
        paths.push_back(std::filesystem::absolute(file).string());
    return paths.empty() ? options : options.set("nvram", paths);
}

async::Task<> register_vm(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("id").text("qmp-socket").text("agent-socket").text("config-type").flag("foreign-manager");
    set_nvram(options, arguments);
    if (const auto file = arguments.value("config")) options.set("config", read_document(*file));
    if (arguments.flag("no-adopt")) options.set("adopt", false);
    const auto vm =
        co_await session.call_manager<bus::ObjectPath>("RegisterVM", arguments.at(0), options.dict());
    co_await print_made(session, vm);
}

async::Task<> unregister_vm(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("forget-snapshots");
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await session.call(vm, "Unregister", options.dict());
}

async::Task<> update_vm(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("name").text("qmp-socket").text("agent-socket").flag("discard-memory");
    if (arguments.flag("nvram") && arguments.flag("no-nvram"))
        throw UsageError("--nvram and --no-nvram contradict each other");
    if (arguments.flag("no-nvram")) options.set("nvram", std::vector<std::string>());
    set_nvram(options, arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await session.call(vm, "Update", options.dict());
}

async::Task<> refresh_vm(Session& session, Arguments arguments) {
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await session.call(vm, "Refresh");
}

async::Task<> draw_vm_tree(Session& session, Arguments arguments) {
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const Objects objects = co_await session.objects();
    session.output().print(VmTree(objects, vm));
}

/// "DISK=SNAPSHOT"
struct Choice {
    explicit Choice(const std::string& word) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == word.size())
            throw UsageError("{} is not DISK=SNAPSHOT", quote(word));
        disk = word.substr(0, equals);
        snapshot = word.substr(equals + 1);
    }
    std::string disk;
    std::string snapshot;
};

async::Task<> preview_vm(Session& session, Arguments arguments) {
    std::vector<Choice> choices;
    for (const std::string& word : arguments.words_from(1)) choices.emplace_back(word);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const Objects objects = co_await session.objects();
    std::map<bus::ObjectPath, bus::ObjectPath> disks;
    for (const Choice& choice : choices) {
        const bus::ObjectPath disk = co_await find_disk_of(session, objects, vm, choice.disk);
        const bus::ObjectPath snapshot = co_await find_snapshot_of(session, objects, vm, choice.snapshot);
        if (!disks.emplace(disk, snapshot).second)
            throw UsageError("disk {} is named twice", quote(choice.disk));
    }
    MethodOptions options(arguments);
    set_memory_option(options, arguments);
    if (const auto from = arguments.value("config-from")) {
        const bus::ObjectPath snapshot = co_await find_snapshot_of(session, objects, vm, *from);
        options.set("config-from", snapshot);
    }
    const auto job = co_await session.call<bus::ObjectPath>(vm, "Preview", disks, options.dict());
    co_await finish_job(session, job);
}

async::Task<> commit_preview(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("keep-branch");
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(vm, "CommitPreview", options.dict());
    co_await finish_job(session, job, "snapshot");
}

async::Task<> undo_preview(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(vm, "UndoPreview", options.dict());
    co_await finish_job(session, job);
}

using CheckpointRow = std::tuple<std::string, std::uint64_t, std::string>;
using CheckpointFlaw = std::tuple<std::string, bus::ObjectPath, std::string>;

/// "DISK: WHY" for each disk that a checkpoint is of no use for.
Cell problems_of(const std::string& checkpoint, const std::vector<CheckpointFlaw>& flaws,
                 const Objects& objects) {
    std::vector<Cell> problems;
    for (const auto& [name, disk, why] : flaws)
        if (name == checkpoint) problems.push_back(Cell::text(objects.name(disk) + ": " + why));
    return problems.empty() ? Cell() : Cell::list(std::move(problems));
}

async::Task<> list_checkpoints(Session& session, Arguments arguments) {
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const Objects objects = co_await session.objects();
    const Object* const shown = objects.find(vm);
    std::vector<Table::Column> columns(4);
    columns[0].property = "Name";
    columns[1].property = "TimeUsec";
    columns[2].property = "State";
    columns[3].property = "Problems";
    Table table("checkpoint", std::move(columns));
    if (shown != nullptr) {
        const auto flaws = shown->value<std::vector<CheckpointFlaw>>("CheckpointProblems");
        for (const auto& [name, time, state] : shown->value<std::vector<CheckpointRow>>("Checkpoints")) {
            std::vector<Cell> row{Cell::text(name), Cell::time(time), Cell::state(state),
                                  problems_of(name, flaws, objects)};
            table.add(std::move(row));
        }
    }
    session.output().print(table);
}

async::Task<> delete_checkpoint(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto job =
        co_await session.call<bus::ObjectPath>(vm, "DeleteCheckpoint", arguments.at(1), options.dict());
    co_await finish_job(session, job);
}

async::Task<> print_launch_arguments(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("device");
    set_memory_option(options, arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto words = co_await session.call<std::vector<std::string>>(vm, "LaunchArguments", options.dict());
    if (session.output().json()) {
        session.output().print_json(words);
        co_return;
    }
    for (const std::string& word : words) session.output().print_line(word);
}

async::Task<> print_vm_config(Session& session, Arguments arguments) {
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await print_config(session, vm);
}

async::Task<> set_vm_config(Session& session, Arguments arguments) {
    const Bytes document = read_document(arguments.at(1));
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    std::string type = arguments.value("type").value_or("");
    if (!arguments.flag("type"))
        type = co_await session.proxy(vm).property<std::string>("ConfigType", session.soon());
    co_await session.call(vm, "SetConfig", document, type);
}

/// "OLD=NEW"
std::map<std::string, std::string> moved_pools(const std::vector<std::string>& words) {
    std::map<std::string, std::string> moved;
    for (const std::string& word : words) {
        const std::size_t equals = word.find('=');
        if (equals == std::string::npos) throw UsageError("{} is not OLD=NEW", quote(word));
        moved[word.substr(0, equals)] = word.substr(equals + 1);
    }
    return moved;
}

async::Task<> import_vm(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("name").flag("ignore-newer");
    if (arguments.flag("pool")) options.set("pools", moved_pools(arguments.values("pool")));
    MethodOptions sockets(arguments);
    sockets.text("qmp-socket").text("agent-socket");
    set_nvram(sockets, arguments);
    const std::string file = std::filesystem::absolute(arguments.at(0)).string();
    const auto vm = co_await session.call_manager<bus::ObjectPath>("ImportManifest", file, options.dict());
    if (!sockets.dict().empty()) co_await session.call(vm, "Update", sockets.dict());
    co_await print_made(session, vm);
}

async::Task<> save_profile(Session& session, Arguments arguments) {
    const bus::Dict options = co_await read_snapshot_options(session, arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await session.call(vm, "SaveProfile", arguments.at(1), options);
}

async::Task<> delete_profile(Session& session, Arguments arguments) {
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    co_await session.call(vm, "DeleteProfile", arguments.at(1));
}

async::Task<> import_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    if (const auto current = arguments.value("current")) options.set("current", *current == "yes");
    // As much as the daemon takes.
    const std::string xml = read_text(arguments.at(1), std::size_t{16} << 20);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto snapshot =
        co_await session.call<bus::ObjectPath>(vm, "ImportSnapshotXML", xml, options.dict());
    co_await print_made(session, snapshot);
}

}  // namespace

std::vector<Verb> vm_verbs() {
    const Option qmp_socket{"qmp-socket", "SOCKET", "a QMP monitor that nobody else uses"};
    const Option agent_socket{"agent-socket", "SOCKET", "of the guest agent's port"};
    const Option nvram{"nvram", "FILE...", "a variable store of its firmware, and others given likewise"};
    const Option memory{"memory", "", "fail where it cannot go on from memory"};
    const Option no_memory{"no-memory", "", "let it boot instead of going on from memory"};
    return {
        {"vm", "list", "", "list the VMs", list_vms},
        {"vm", "show", "VM", "show all there is to say of a VM", show_object},
        {"vm", "tree", "VM", "draw the VM's snapshots and the volumes that they stand on", draw_vm_tree},
        {"vm",
         "register",
         "NAME",
         "make a VM known, and adopt its disks",
         register_vm,
         {qmp_socket,
          agent_socket,
          {"id", "UUID", "of the VM; made where not given"},
          {"config", "FILE", "its configuration, of whatever form; - for stdin"},
          {"config-type", "TYPE", "the MIME type of that"},
          nvram,
          {"no-adopt", "", "do not make records of disks that are found in it"},
          {"foreign-manager", "", "although libvirt runs it, which will not know of overlays"}}},
        {"vm",
         "unregister",
         "VM",
         "forget a VM; its disks float then, no file is touched",
         unregister_vm,
         {{"forget-snapshots", "", "and the records of its snapshots"}}},
        {"vm",
         "update",
         "VM",
         "change what is recorded of the VM",
         update_vm,
         {{"name", "NAME", "what it is called from now on"},
          qmp_socket,
          agent_socket,
          nvram,
          {"no-nvram", "", "it has no variable store"},
          {"discard-memory", "", "it is not to go on from a snapshot's memory: let it boot"}}},
        {"vm", "refresh", "VM", "look at the running VM again", refresh_vm},
        {"vm",
         "preview",
         "VM DISK=SNAPSHOT...",
         "let disks of a VM that is down show what they held at snapshots",
         preview_vm,
         {{"config-from", "SNAPSHOT", "let the VM have the configuration and memory of this snapshot, too"},
          memory,
          no_memory}},
        {"vm",
         "commit-preview",
         "VM",
         "stay with what is shown; what was there before goes",
         commit_preview,
         {{"keep-branch", "", "keep what was there before as a branch of the snapshots"}}},
        {"vm", "undo-preview", "VM", "go back to what was there before the preview", undo_preview},
        {"vm", "checkpoints", "VM", "list the moments since which the changes of the VM's disks are known",
         list_checkpoints},
        {"vm", "delete-checkpoint", "VM CHECKPOINT", "forget such a moment", delete_checkpoint},
        {"vm",
         "launch-arguments",
         "VM",
         "print the arguments with which QEMU opens the VM's disks, one on a line",
         print_launch_arguments,
         {{"device", "MODEL", "add a device of this model (virtio-blk-pci ...) for each disk"},
          memory,
          no_memory}},
        {"vm", "config", "VM", "print the VM's configuration", print_vm_config},
        {"vm",
         "set-config",
         "VM FILE",
         "replace the VM's configuration; - for stdin",
         set_vm_config,
         {{"type", "TYPE", "its MIME type; where not given, as it was"}}},
        {"vm",
         "import",
         "FILE",
         "make a VM known again by its manifest",
         import_vm,
         {{"name", "NAME", "what it is called from now on"},
          {"pool", "OLD=NEW...", "a directory that the manifest names, and where it is now"},
          {"ignore-newer", "", "also where there are images that the manifest does not know; they are lost"},
          {"qmp-socket", "SOCKET", "Unix socket of its QMP monitor"},
          {"agent-socket", "SOCKET", "Unix socket of its guest agent's port"},
          nvram}},
        {"vm", "save-profile", "VM NAME", "keep options of snapshots under a name", save_profile,
         snapshot_options()},
        {"vm", "delete-profile", "VM NAME", "forget options that were kept under a name", delete_profile},
        {"vm",
         "import-snapshot",
         "VM FILE",
         "make a snapshot known again that a document of libvirt tells of; - for stdin",
         import_snapshot,
         {{"current", "yes|no", "whether it becomes the current one; else as the document says"}}},
    };
}

}  // namespace volchain::client
