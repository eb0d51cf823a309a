// SPDX-License-Identifier: MIT
//
// volchainctl volume: image files.
#include <algorithm>
#include <tuple>

#include "client/clone.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/session.h"
#include "client/show.h"
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

async::Task<> delete_volume(Session& session, Arguments arguments) {
    const MethodOptions options(arguments);
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(volume, "Delete", options.dict());
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
    };
}

}  // namespace volchain::client
