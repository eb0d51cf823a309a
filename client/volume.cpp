// SPDX-License-Identifier: MIT
//
// volchainctl volume: image files.
#include <algorithm>
#include <tuple>

#include "client/clone.h"
#include "client/export.h"
#include "client/extents.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/session.h"
#include "client/show.h"
#include "client/units.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

/// Beside each other by disk, the bottom of a chain first.
void by_disk(const Objects& objects, std::vector<const Object*>& volumes) {
    const auto key = [&objects](const Object* volume) {
        return std::tuple(objects.name(volume->reference("Disk")), volume->value<std::uint32_t>("Depth"),
                          volume->name());
    };
    std::sort(volumes.begin(), volumes.end(),
              [&key](const Object* a, const Object* b) { return key(a) < key(b); });
}

async::Task<> list_volumes(Session& session, Arguments arguments) {
    bus::ObjectPath disk;
    if (const auto wanted = arguments.word(0)) disk = co_await session.find("disk", *wanted);
    const Objects objects = co_await session.objects();
    std::vector<const Object*> volumes = objects.of_kind("volume");
    if (!disk.none())
        std::erase_if(volumes, [&disk](const Object* volume) { return volume->reference("Disk") != disk; });
    by_disk(objects, volumes);
    const std::vector<ListColumn> columns{"Disk",      "Depth",          "Path",   "Format",
                                          "SizeBytes", "AllocatedBytes", "Active", "State"};
    session.output().print(list_of("volume", objects, volumes, columns));
}

async::Task<> commit_volume(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.size("speed");
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const bus::ObjectPath base = co_await session.find("volume", arguments.at(1));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Commit", base, options.dict());
    co_await finish_job(session, job, "volume");
}

async::Task<> merge_volume(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.size("speed").text("direction");
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Merge", options.dict());
    co_await finish_job(session, job);
}

async::Task<> export_volume(Session& session, Arguments arguments) {
    const bus::Dict options = co_await export_request(session, arguments);
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Export", options);
    co_await finish_job(session, job, "export");
}

async::Task<> delete_volume(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Delete", options.dict());
    co_await finish_job(session, job);
}

async::Task<> map_volume(Session& session, Arguments arguments) {
    const std::uint64_t from = parse_size(arguments.value("start").value_or("0"));
    const auto length = arguments.value("length");
    const std::uint64_t wanted = length ? parse_size(*length) : 0;
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    ExtentList all;
    std::uint64_t start = from;
    while (!length || start - from < wanted) {
        const std::uint64_t rest = length ? wanted - (start - from) : 0;
        const auto extents = co_await session.call<Extents>(volume, "Map", start, rest);
        if (extents.empty()) break;
        all.add(extents);
        start = all.end();
    }
    session.output().print(all.table());
}

async::Task<> measure_volume(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("format").size("cluster-size").flag("extended-l2").flag("bitmaps");
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto measured =
        co_await session.call<std::tuple<std::uint64_t, std::uint64_t>>(volume, "Measure", options.dict());
    Sheet sheet;
    sheet.add("RequiredBytes", Cell::size(std::get<0>(measured)));
    sheet.add("FullBytes", Cell::size(std::get<1>(measured)));
    session.output().print(sheet);
}

async::Task<> checksum_volume(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("algorithm").size("speed");
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Checksum", options.dict());
    co_await finish_job(session, job);
}

}  // namespace

std::vector<Verb> volume_verbs() {
    return {
        {"volume", "list", "[DISK]", "list the volumes, or those of a disk", list_volumes},
        {"volume", "show", "VOLUME", "show all there is to say of a volume", show_object},
        {"volume",
         "commit",
         "VOLUME BASE",
         "write a volume, and all between, down into one below",
         commit_volume,
         {{"speed", "SIZE", "a second, at most"}}},
        {"volume",
         "merge",
         "VOLUME",
         "remove a volume by merging it with what stands on it",
         merge_volume,
         {{"direction", "auto|commit|stream", "which is copied: the upper one down, or this one up"},
          {"speed", "SIZE", "a second, at most"}}},
        volume_clone_verb(),
        {"volume", "delete", "VOLUME", "remove a volume that nobody needs", delete_volume},
        {"volume",
         "map",
         "VOLUME",
         "show which parts of the disk have data, as seen through a volume",
         map_volume,
         {{"start", "SIZE", "where to begin"}, {"length", "SIZE", "how much to look at"}}},
        {"volume",
         "measure",
         "VOLUME",
         "tell how large a copy of all that is seen through a volume is",
         measure_volume,
         {{"format", "qcow2|raw", "of the copy"},
          {"cluster-size", "SIZE", "of a qcow2 image"},
          {"extended-l2", "", "a qcow2 image with subclusters"},
          {"bitmaps", "", "with the volume's bitmaps"}}},
        {"volume",
         "checksum",
         "VOLUME",
         "make a checksum of all that is seen through a volume",
         checksum_volume,
         {{"algorithm", "sha256/64KiB|blake2b512/64KiB", "the hash function, and of which blocks"},
          {"speed", "SIZE", "a second, at most"}}},
        {"volume", "export", "VOLUME", "show a volume that nobody writes to to a backup appliance",
         export_volume, export_options()},
    };
}

}  // namespace volchain::client
