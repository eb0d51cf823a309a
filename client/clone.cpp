// SPDX-License-Identifier: MIT
#include "client/clone.h"

#include <map>

#include "base/text.h"
#include "client/job_wait.h"
#include "client/session.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

void set_image_options(MethodOptions& options) {
    options.text("format").text("preallocation").size("cluster-size").flag("extended-l2").text("compression");
    options.size("speed");
}

/// "POOL" for all disks, "DISK=POOL" for one of them.
async::Task<> set_pools(Session& session, std::vector<std::string> words, MethodOptions& options) {
    std::map<bus::ObjectPath, bus::ObjectPath> pools;
    std::optional<bus::ObjectPath> for_all;
    for (const std::string& word : words) {
        const std::size_t equals = word.find('=');
        const bool all = equals == std::string::npos;
        const std::string wanted = all ? word : word.substr(equals + 1);
        const bus::ObjectPath pool = co_await session.find("pool", wanted);
        if (all && for_all) throw UsageError("--pool says two pools for all disks");
        if (all) {
            for_all = pool;
            continue;
        }
        const bus::ObjectPath disk = co_await session.find("disk", word.substr(0, equals));
        pools.emplace(disk, pool);
    }
    if (for_all) options.set("pool", *for_all);
    if (!pools.empty()) options.set("pools", pools);
}

async::Task<> clone_snapshot(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    set_image_options(options);
    options.flag("thin").text("shareable");
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const auto disks = co_await session.find_all("disk", arguments.values("disk"));
    options.objects("disks", disks);
    co_await set_pools(session, arguments.values("pool"), options);
    const auto job =
        co_await session.call<bus::ObjectPath>(snapshot, "Clone", arguments.at(1), options.dict());
    co_await finish_job(session, job, "vm");
}

async::Task<> clone_volume(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    set_image_options(options);
    options.flag("thin");
    const bus::ObjectPath volume = co_await session.find("volume", arguments.at(0));
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(2));
    const auto job =
        co_await session.call<bus::ObjectPath>(volume, "Clone", arguments.at(1), pool, options.dict());
    co_await finish_job(session, job);
}

std::vector<Option> with_image_options(std::vector<Option> options) {
    const std::vector<Option> image{
        {"thin", "", "overlays on what is cloned, instead of copies"},
        {"format", "qcow2|raw", "of the copies; where not given, that of each source"},
        {"preallocation", "off|metadata|falloc|full", "what is allocated at once"},
        {"cluster-size", "SIZE", "of qcow2"},
        {"extended-l2", "", "qcow2 with subclusters"},
        {"compression", "zlib|zstd", "what compressed clusters of qcow2 would be compressed with"},
        {"speed", "SIZE", "a second, at most"}};
    options.insert(options.end(), image.begin(), image.end());
    return options;
}

}  // namespace

Verb snapshot_clone_verb() {
    return {"snapshot",
            "clone",
            "SNAPSHOT NAME",
            "make a new VM of what a VM was at a snapshot",
            clone_snapshot,
            with_image_options(
                {{"pool", "POOL...", "where the copies go: for all, or DISK=POOL for one"},
                 {"disk", "DISK...", "only this disk, and others given likewise"},
                 {"shareable", "refuse|copy|skip", "what becomes of disks that several VMs may have open"}})};
}

Verb volume_clone_verb() {
    return {"volume",           "clone",
            "VOLUME NAME POOL", "make a new disk of what a volume shows",
            clone_volume,       with_image_options({})};
}

}  // namespace volchain::client
