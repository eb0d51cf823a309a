// SPDX-License-Identifier: MIT
#include "storage/exports/export_mount.h"

#include <unistd.h>

#include "base/text.h"
#include "qmp/schema.h"
#include "storage/process_keeper.h"

namespace volchain::storage {
namespace {

constexpr const char* shown_node_name = "shown";

/// The client of the first storage daemon's NBD server.
Json client_node(const std::string& socket, bool writable) {
    Json node;
    node["driver"] = "nbd";
    node["node-name"] = shown_node_name;
    node["server"] = {{"type", "unix"}, {"path", socket}};
    node["export"] = "";
    node["read-only"] = !writable;
    if (writable) node["discard"] = "unmap";
    return node;
}

Json fuse_arguments(const std::string& file, bool writable) {
    Json arguments;
    arguments["type"] = "fuse";
    arguments["id"] = export_name;
    arguments["node-name"] = shown_node_name;
    arguments["mountpoint"] = file;
    arguments["writable"] = writable;
    arguments["growable"] = false;
    // "auto" would fall back to a file that only root can read.
    arguments["allow-other"] = "on";
    return arguments;
}

std::string name_of_mounter(const Uuid& id) {
    return "volchain-export-mount-" + id.str();
}

std::string what_mounter_is(const Uuid& id) {
    return "File of export " + id.str();
}

MountingProcess mounting_process(const Uuid& id, const std::string& file, qmp::StorageDaemonLaunch launch) {
    MountingProcess process(name_of_mounter(id), std::move(launch.argv));
    process.what = what_mounter_is(id);
    process.mountpoint = file;
    process.input = launch.input;
    process.output = launch.output;
    return process;
}

}  // namespace

void check_mounts_possible(const Engine& engine) {
    if (::geteuid() != 0)
        throw Error(ErrorCode::unsupported, "exports of kind file take a daemon that runs as root");
    // Whoever mounts in our place sees more devices than we do.
    if (engine.process_keeper() == nullptr && ::access("/dev/fuse", R_OK | W_OK) < 0)
        throw Error(ErrorCode::unsupported,
                    "exports of kind file take FUSE, and there is no /dev/fuse here: the kernel has none, or "
                    "this container may not see it");
}

async::Task<ExportProcess> start_export_mount(Engine& engine, ExportRecord record) {
    const ExportPlace place = place_of_export(engine, record.id);
    // No Landlock: it would forbid all mounting.
    qmp::StorageDaemonOptions options(place.mount_monitor());
    if (ProcessKeeper* const keeper = engine.process_keeper(); keeper != nullptr)
        options.launch = [keeper, id = record.id, file = place.file()](qmp::StorageDaemonLaunch launch) {
            return keeper->start(mounting_process(id, file, std::move(launch)));
        };
    co_return co_await start_export_process(engine, std::move(options), name_of_mounter(record.id),
                                            what_mounter_is(record.id));
}

async::Task<> mount_export(Engine& engine, std::shared_ptr<qmp::StorageDaemon> mounter, ExportRecord record) {
    const ExportPlace place = place_of_export(engine, record.id);
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    const auto schema = co_await mounter->session()->schema(deadline);
    const std::vector<std::string> kind{"block-export-add", "type"};
    if (!schema->enum_has_value(kind, "fuse"))
        throw Error(ErrorCode::unsupported, "this qemu-storage-daemon has no FUSE exports");
    auto make = [place] { place.make_mountpoint(); };
    co_await engine.files().run(std::move(make));
    Json node = client_node(place.socket(), record.writable);
    (void)co_await mounter->session()->execute("blockdev-add", std::move(node), deadline);
    Json arguments = fuse_arguments(place.file(), record.writable);
    (void)co_await mounter->session()->execute("block-export-add", std::move(arguments), deadline);
    // The storage daemon answers to that itself.
    auto give = [place, user = record.allowed_uid.value_or(record.owner_uid)] { place.give_file_to(user); };
    co_await async::with_deadline(engine.files().run(std::move(give)), deadline, "the mounted file");
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_mount(Engine& engine, ExportRecord record) {
    const std::string monitor = place_of_export(engine, record.id).mount_monitor();
    auto mounter = co_await find_export_process(engine, monitor, record.mounter);
    const std::string node = co_await node_shown_by(engine, mounter);
    if (node != shown_node_name)
        throw Error(ErrorCode::qemu_failed, "storage daemon {} shows node {}", record.mounter.pid,
                    quote(node));
    co_return mounter;
}

async::Task<> end_export_mount(Engine& engine, ExportRecord record,
                               std::shared_ptr<qmp::StorageDaemon> mounter) {
    const ExportPlace place = place_of_export(engine, record.id);
    co_await end_export_process(engine, place.mount_monitor(), record.mounter, std::move(mounter));
    // Who mounts in our place unmounts, too: we may do neither.
    if (engine.process_keeper() != nullptr)
        co_return co_await engine.process_keeper()->end(name_of_mounter(record.id));
    auto unmount = [place] { place.unmount(); };
    co_await engine.files().run(std::move(unmount));
}

}  // namespace volchain::storage
