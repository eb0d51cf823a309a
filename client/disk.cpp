// SPDX-License-Identifier: MIT
//
// volchainctl disk: disks of VMs, and floating ones.
#include <filesystem>

#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/units.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

async::Task<> list_disks(Session& session, Arguments arguments) {
    bus::ObjectPath vm;
    if (const auto wanted = arguments.word(0)) vm = co_await session.find("vm", *wanted);
    const Objects objects = co_await session.objects();
    std::vector<const Object*> disks = objects.of_kind("disk");
    if (!vm.none()) std::erase_if(disks, [&vm](const Object* disk) { return disk->reference("VM") != vm; });
    const std::vector<ListColumn> columns{"Name",      "VM",      "Target",     "Pool",
                                          "SizeBytes", "Volumes", "ActivePath", "State"};
    session.output().print(list_of("disk", objects, disks, columns));
}

async::Task<> create_disk(Session& session, Arguments arguments) {
    const std::uint64_t size = parse_size(arguments.at(2));
    MethodOptions options(arguments);
    options.text("format").text("preallocation").size("cluster-size").flag("extended-l2").text("compression");
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(0));
    const auto job =
        co_await session.call<bus::ObjectPath>(pool, "CreateDisk", arguments.at(1), size, options.dict());
    co_await finish_job(session, job, "disk");
}

async::Task<> import_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("name").text("format").flag("copy");
    std::string file = arguments.at(1);
    // What lies in the pool is named as seen from there; of anything else, as seen from here.
    if (arguments.flag("copy")) file = std::filesystem::absolute(file).string();
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(pool, "ImportDisk", file, options.dict());
    co_await finish_job(session, job, "disk");
}

async::Task<> create_overlay(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("activate");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    if (const auto backing = arguments.value("backing")) {
        const bus::ObjectPath volume = co_await session.find("volume", *backing);
        options.set("backing", volume);
    }
    const auto job = co_await session.call<bus::ObjectPath>(disk, "CreateOverlay", options.dict());
    co_await finish_job(session, job, "volume");
}

async::Task<> flatten_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.size("speed");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Flatten", options.dict());
    co_await finish_job(session, job, "volume");
}

async::Task<> attach_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("device").text("bus");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(1));
    const std::string target = arguments.word(2).value_or("");
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Attach", vm, target, options.dict());
    co_await finish_job(session, job);
}

async::Task<> detach_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.duration("timeout");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Detach", options.dict());
    co_await finish_job(session, job);
}

async::Task<> create_disk_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("description").text("quiesce").duration("freeze-timeout");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const std::string name = arguments.word(1).value_or("");
    const auto job = co_await session.call<bus::ObjectPath>(disk, "CreateSnapshot", name, options.dict());
    co_await finish_job(session, job, "snapshot");
}

async::Task<> move_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("collapse").size("speed");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(1));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Move", pool, options.dict());
    co_await finish_job(session, job);
}

async::Task<> resize_disk(Session& session, Arguments arguments) {
    const std::uint64_t size = parse_size(arguments.at(1));
    MethodOptions options(arguments);
    options.flag("shrink");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Resize", size, options.dict());
    co_await finish_job(session, job);
}

Cell finding_cell(const bus::Dict& finding, const std::string& name, const NameOf& name_of) {
    const auto found = finding.find(name);
    if (found == finding.end()) return {};
    if (name == "severity") return Cell::state(found->second.get<std::string>().value_or(""));
    return cell_of(name, found->second, name_of);
}

async::Task<> print_findings(Session& session, bus::Dict result) {
    const Objects objects = co_await session.objects();
    const NameOf name_of = names_in(objects);
    const std::vector<Table::Column> columns{{"severity"}, {"kind"},          {"repairable"}, {"repaired"},
                                             {"message"},  {"volume", false}, {"path", false}};
    Table table("finding", columns);
    const auto findings = result["findings"].get<std::vector<bus::Dict>>();
    for (const bus::Dict& finding : findings.value_or(std::vector<bus::Dict>())) {
        std::vector<Cell> cells;
        for (const Table::Column& column : columns)
            cells.push_back(finding_cell(finding, column.property, name_of));
        table.add(std::move(cells));
    }
    session.output().print(table);
}

async::Task<> check_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("repair");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Check", options.dict());
    if (!session.settings().wait) {
        co_await finish_job(session, job);
        co_return;
    }
    bus::Dict result = co_await result_of_job(session, job);
    co_await print_findings(session, std::move(result));
}

async::Task<> delete_disk(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("snapshots");
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(disk, "Delete", options.dict());
    co_await finish_job(session, job);
}

}  // namespace

std::vector<Verb> disk_verbs() {
    return {
        {"disk", "list", "[VM]", "list the disks, or those of a VM", list_disks},
        {"disk", "show", "DISK", "show all there is to say of a disk", show_object},
        {"disk",
         "create",
         "POOL NAME SIZE",
         "make a new, empty disk",
         create_disk,
         {{"format", "qcow2|raw", "of its image; qcow2 where not given"},
          {"preallocation", "off|metadata|falloc|full", "what is allocated beforehand; off where not given"},
          {"cluster-size", "SIZE", "of a qcow2 image; 64K where not given"},
          {"extended-l2", "", "subclusters, in a qcow2 image"},
          {"compression", "zlib|zstd", "of a qcow2 image; zlib where not given"}}},
        {"disk",
         "import",
         "POOL FILE",
         "make an image in the pool's directory a disk, with the chain below it",
         import_disk,
         {{"name", "NAME", "of the disk; where not given, after the file"},
          {"format", "qcow2|raw", "of the image; needed for raw"},
          {"copy", "", "copy it into the pool, from wherever it is"}}},
        {"disk",
         "overlay",
         "DISK",
         "cover the active volume with a new one",
         create_overlay,
         {{"backing", "VOLUME", "put the new volume on this one instead: a branch"},
          {"activate", "", "let the branch be the active volume, of a VM that is down"}}},
        {"disk",
         "flatten",
         "DISK",
         "make the active volume hold everything itself",
         flatten_disk,
         {{"speed", "SIZE", "a second, at most"}}},
        {"disk",
         "snapshot",
         "DISK [NAME]",
         "keep the content of this disk alone as it is now",
         create_disk_snapshot,
         {{"description", "TEXT", "for people"},
          {"quiesce", "auto|require|off",
           "freeze the guest's file systems: if it can be, or fail, or not at all"},
          {"freeze-timeout", "DURATION", "how long the freeze may take"}}},
        {"disk",
         "move",
         "DISK POOL",
         "let a disk go to another pool, also while its VM runs",
         move_disk,
         {{"collapse", "", "as one volume that stands on nothing; snapshots stay"},
          {"speed", "SIZE", "a second, at most"}}},
        {"disk",
         "resize",
         "DISK SIZE",
         "make a disk larger, also while its VM runs",
         resize_disk,
         {{"shrink", "", "or smaller, although what is beyond is lost"}}},
        {"disk",
         "attach",
         "DISK VM [TARGET]",
         "make a floating disk a disk of a VM, also while that runs",
         attach_disk,
         {{"device", "DRIVER", "what QEMU calls the device; virtio-blk-pci where not given"},
          {"bus", "BUS", "what to plug it into, in a VM that runs"}}},
        {"disk",
         "detach",
         "DISK",
         "let a VM's disk float, also while the VM runs",
         detach_disk,
         {{"timeout", "DURATION", "how long the guest may take to let go of it"}}},
        {"disk",
         "check",
         "DISK",
         "list what is wrong with a disk",
         check_disk,
         {{"repair", "", "mend what can be mended without loss"}}},
        {"disk",
         "delete",
         "DISK",
         "delete a disk and its files, for good",
         delete_disk,
         {{"snapshots", "", "although snapshots name it, which lose it"}}},
    };
}

}  // namespace volchain::client
