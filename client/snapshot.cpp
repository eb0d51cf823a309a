// SPDX-License-Identifier: MIT
//
// volchainctl snapshot: instants of a VM's disks.
#include <algorithm>
#include <tuple>
#include <utility>

#include "client/clone.h"
#include "client/document.h"
#include "client/extents.h"
#include "client/find_in_vm.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/snapshot_options.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

bool is_scheduled(const Object* row) {
    return row->kind == "schedule";
}

/// Of a schedule, when the next one will be taken.
std::uint64_t date_of(const Object* row) {
    return row->number(is_scheduled(row) ? "NextUsec" : "CreatedUsec");
}

/// By the VM, then as wished.
void sort_snapshots(std::vector<const Object*>& rows, const Objects& objects, const Arguments& arguments) {
    const bool by_name = arguments.value("sort") == "name";
    const auto before = [&](const Object* a, const Object* b) {
        if (by_name) return a->text("Name") < b->text("Name");
        return date_of(a) < date_of(b);
    };
    std::stable_sort(rows.begin(), rows.end(), [&](const Object* a, const Object* b) {
        const std::string vm_a = objects.name(a->reference("VM"));
        const std::string vm_b = objects.name(b->reference("VM"));
        if (vm_a != vm_b) return vm_a < vm_b;
        return arguments.flag("reverse") ? before(b, a) : before(a, b);
    });
}

async::Task<> list_snapshots(Session& session, Arguments arguments) {
    bus::ObjectPath vm;
    if (const auto wanted = arguments.word(0)) vm = co_await session.find("vm", *wanted);
    const Objects objects = co_await session.objects();
    const std::string shown = arguments.value("show").value_or("taken");
    std::vector<const Object*> rows;
    if (shown != "scheduled") rows = objects.of_kind("snapshot");
    if (shown != "taken")
        for (const Object* schedule : objects.of_kind("schedule")) rows.push_back(schedule);
    std::erase_if(rows, [&](const Object* row) {
        return (!vm.none() && row->reference("VM") != vm) || (is_scheduled(row) && date_of(row) == 0);
    });
    sort_snapshots(rows, objects, arguments);
    const auto date = [](const Object& row) { return Cell::time(date_of(&row)); };
    const auto status = [](const Object& row) {
        return Cell::state(is_scheduled(&row) ? "scheduled" : row.text("Status"));
    };
    const std::vector<ListColumn> columns{"Name",        "VM",      {"CreatedUsec", date},
                                          "Consistency", "VMState", "Disks",
                                          "Parent",      "Current", {"Status", status}};
    session.output().print(list_of("snapshot", objects, rows, columns));
}

async::Task<> create_snapshot(Session& session, Arguments arguments) {
    bus::Dict options = co_await read_snapshot_options(session, arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    for (const char* option : {"profile", "checkpoint"})
        if (const auto value = arguments.value(option)) options.emplace(option, *value);
    const std::string name = arguments.word(1).value_or("");
    const auto job = co_await session.call<bus::ObjectPath>(vm, "CreateSnapshot", name, options);
    co_await finish_job(session, job, "snapshot");
}

/// The options that preview and revert share.
MethodOptions& set_config_option(MethodOptions& options, const Arguments& arguments) {
    if (arguments.flag("no-config")) options.set("config", false);
    return set_memory_option(options, arguments);
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

/// Disk, which of the two has it, its size in each, bytes that may differ, in how many extents.
using DiskDifference =
    std::tuple<bus::ObjectPath, std::string, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;
/// Extents, where to go on.
using DiffPage = std::tuple<Extents, std::uint64_t>;

Cell disk_cell(const Objects& objects, const bus::ObjectPath& disk) {
    return Cell::object("disk", id_of(disk), objects.name(disk));
}

void print_diff(Session& session, const Objects& objects, const std::vector<DiskDifference>& disks) {
    Table table("disk",
                {{"Disk"}, {"In"}, {"SizeBytes"}, {"OtherSizeBytes"}, {"DifferingBytes"}, {"Extents"}});
    for (const auto& [disk, where, size, other_size, bytes, extents] : disks) {
        const bool both = where == "both";
        table.add({disk_cell(objects, disk), Cell::text(where), where == "other" ? Cell() : Cell::size(size),
                   where == "this" ? Cell() : Cell::size(other_size), both ? Cell::size(bytes) : Cell(),
                   both ? Cell::number(extents) : Cell()});
    }
    session.output().print(table);
}

/// Where one disk may differ.
async::Task<ExtentList> differing_extents(Session& session, bus::ObjectPath snapshot, bus::ObjectPath other,
                                          bus::ObjectPath disk) {
    ExtentList all;
    std::uint64_t start = 0;
    do {
        const auto page = co_await session.call<DiffPage>(snapshot, "DiffMap", other, disk, start);
        all.add(std::get<0>(page));
        start = std::get<1>(page);
    } while (start != 0);
    co_return all;
}

async::Task<> print_diff_extents(Session& session, Objects objects, bus::ObjectPath snapshot,
                                 bus::ObjectPath other, std::vector<DiskDifference> disks) {
    Table table("extent", {{"Disk"}, {"Start"}, {"Length"}, {"Kind"}});
    for (const DiskDifference& difference : disks) {
        if (std::get<1>(difference) != "both") continue;
        const bus::ObjectPath disk = std::get<0>(difference);
        const ExtentList extents = co_await differing_extents(session, snapshot, other, disk);
        for (const auto& [start, length, kind] : extents.all())
            table.add(
                {disk_cell(objects, disk), Cell::number(start), Cell::number(length), Cell::text(kind)});
    }
    session.output().print(table);
}

async::Task<> diff_snapshots(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const Objects objects = co_await session.objects();
    bus::ObjectPath other;
    if (const auto wanted = arguments.word(1)) {
        const Object* const first = objects.find(snapshot);
        const bus::ObjectPath vm = first == nullptr ? bus::ObjectPath() : first->reference("VM");
        other = co_await find_snapshot_of(session, objects, vm, *wanted);
    }
    const auto disks =
        co_await session.call<std::vector<DiskDifference>>(snapshot, "Diff", other, options.dict());
    if (arguments.flag("extents"))
        co_await print_diff_extents(session, objects, snapshot, other, disks);
    else
        print_diff(session, objects, disks);
}

async::Task<> print_snapshot_config(Session& session, Arguments arguments) {
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    co_await print_config(session, snapshot);
}

async::Task<> print_snapshot_xml(Session& session, Arguments arguments) {
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const auto xml = co_await session.call<std::string>(snapshot, "ToXML");
    if (session.output().json())
        session.output().print_json({{"xml", xml}});
    else
        session.output().print_raw(xml);
}

}  // namespace

std::vector<Verb> snapshot_verbs() {
    std::vector<Option> create = snapshot_options();
    create.push_back({"profile", "NAME", "what is not given here is as saved in this profile of the VM"});
    create.push_back({"checkpoint", "NAME", "begin a checkpoint at its moment, for incremental backups"});
    const Option no_config{"no-config", "", "let the VM keep its configuration, and boot"};
    const Option memory{"memory", "", "fail where it cannot go on from the snapshot's memory"};
    const Option no_memory{"no-memory", "", "let it boot instead of going on from the snapshot's memory"};
    return {
        {"snapshot",
         "list",
         "[VM]",
         "list the snapshots, or those of a VM",
         list_snapshots,
         {{"show", "taken|scheduled|all", "those that there are, or schedules with their next run, or both"},
          {"sort", "date|name", "by what, within each VM"},
          {"reverse", "", "the last one first"}}},
        {"snapshot", "show", "SNAPSHOT", "show all there is to say of a snapshot", show_object},
        {"snapshot", "create", "VM [NAME]", "keep the content of the VM's disks as it is now",
         create_snapshot, std::move(create)},
        {"snapshot",
         "preview",
         "SNAPSHOT",
         "let a VM that is down show what it was at a snapshot",
         preview_snapshot,
         {no_config, memory, no_memory}},
        {"snapshot",
         "revert",
         "SNAPSHOT",
         "let a VM that is down be again what it was at a snapshot",
         revert_to_snapshot,
         {no_config,
          memory,
          no_memory,
          {"keep-branch", "", "keep what it is now as a branch of the snapshots"}}},
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
        {"snapshot",
         "diff",
         "SNAPSHOT [SNAPSHOT]",
         "tell how much may differ between two snapshots, or one and what is there now",
         diff_snapshots,
         {{"extents", "", "list where"}}},
        {"snapshot", "config", "SNAPSHOT", "print the VM's configuration of that instant",
         print_snapshot_config},
        {"snapshot", "xml", "SNAPSHOT", "print the snapshot as a document of libvirt", print_snapshot_xml},
    };
}

}  // namespace volchain::client
