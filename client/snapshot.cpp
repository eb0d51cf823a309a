// SPDX-License-Identifier: MIT
//
// volchainctl snapshot: instants of a VM's disks.
#include <algorithm>
#include <tuple>

#include "client/clone.h"
#include "client/document.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

async::Task<> list_snapshots(Session& session, Arguments arguments) {
    bus::ObjectPath vm;
    if (const auto wanted = arguments.word(0)) vm = co_await session.find("vm", *wanted);
    const Objects objects = co_await session.objects();
    std::vector<const Object*> snapshots = objects.of_kind("snapshot");
    if (!vm.none())
        std::erase_if(snapshots, [&vm](const Object* snapshot) { return snapshot->reference("VM") != vm; });
    const auto key = [&objects](const Object* snapshot) {
        return std::tuple(objects.name(snapshot->reference("VM")), snapshot->number("CreatedUsec"));
    };
    std::stable_sort(snapshots.begin(), snapshots.end(),
                     [&key](const Object* a, const Object* b) { return key(a) < key(b); });
    const std::vector<ListColumn> columns{"Name",  "VM",     "CreatedUsec", "Consistency", "VMState",
                                          "Disks", "Parent", "Current",     "Status"};
    session.output().print(list_of("snapshot", objects, snapshots, columns));
}

async::Task<> create_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("description").text("quiesce").duration("freeze-timeout").text("on-disk-failure");
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    const auto disks = co_await session.find_all("disk", arguments.values("disk"));
    const auto exclude = co_await session.find_all("disk", arguments.values("exclude"));
    options.objects("disks", disks).objects("exclude", exclude);
    const std::string name = arguments.word(1).value_or("");
    const auto job = co_await session.call<bus::ObjectPath>(vm, "CreateSnapshot", name, options.dict());
    co_await finish_job(session, job, "snapshot");
}

/// The options that preview and revert share.
MethodOptions& set_config_option(MethodOptions& options, const Arguments& arguments) {
    if (arguments.flag("no-config")) options.set("config", false);
    return options;
}

async::Task<> preview_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    set_config_option(options, arguments);
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(snapshot, "Preview", options.dict());
    co_await finish_job(session, job);
}

async::Task<> revert_to_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    set_config_option(options, arguments).flag("keep-branch");
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(snapshot, "Revert", options.dict());
    co_await finish_job(session, job, "snapshot");
}

async::Task<> set_metadata(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("name").text("description");
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    co_await session.call(snapshot, "SetMetadata", options.dict());
}

async::Task<> delete_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("children").size("speed");
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(snapshot, "Delete", options.dict());
    co_await finish_job(session, job);
}

async::Task<> print_snapshot_config(Session& session, Arguments arguments) {
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    co_await print_config(session, snapshot);
}

}  // namespace

std::vector<Verb> snapshot_verbs() {
    const Option no_config{"no-config", "", "let the VM keep its configuration"};
    return {
        {"snapshot", "list", "[VM]", "list the snapshots, or those of a VM", list_snapshots},
        {"snapshot", "show", "SNAPSHOT", "show all there is to say of a snapshot", show_object},
        {"snapshot",
         "create",
         "VM [NAME]",
         "keep the content of the VM's disks as it is now",
         create_snapshot,
         {{"description", "TEXT", "for people"},
          {"disk", "DISK...", "only this disk, and others given likewise"},
          {"exclude", "DISK...", "all disks but this one, and others given likewise"},
          {"quiesce", "auto|require|off",
           "freeze the guest's file systems: if it can be, or fail, or not at all"},
          {"freeze-timeout", "DURATION", "how long the freeze may take"},
          {"on-disk-failure", "abort|exclude", "what a disk that cannot take part does to the snapshot"}}},
        {"snapshot",
         "preview",
         "SNAPSHOT",
         "let a VM that is down show what it was at a snapshot",
         preview_snapshot,
         {no_config}},
        {"snapshot",
         "revert",
         "SNAPSHOT",
         "let a VM that is down be again what it was at a snapshot",
         revert_to_snapshot,
         {no_config, {"keep-branch", "", "keep what it is now as a branch of the snapshots"}}},
        {"snapshot",
         "set",
         "SNAPSHOT",
         "change what a snapshot is called",
         set_metadata,
         {{"name", "NAME", "its name from now on"}, {"description", "TEXT", "for people"}}},
        {"snapshot",
         "delete",
         "SNAPSHOT",
         "let a snapshot go, and merge what its volumes hold into others",
         delete_snapshot,
         {{"children", "", "also all snapshots that were taken after it"},
          {"speed", "SIZE", "a second, at most"}}},
        snapshot_clone_verb(),
        {"snapshot", "config", "SNAPSHOT", "print the VM's configuration of that instant",
         print_snapshot_config},
    };
}

}  // namespace volchain::client
