// SPDX-License-Identifier: MIT
#include "storage/backups/backup_nodes.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "qmp/event_queue.h"
#include "qmp/job.h"
#include "qmp/nbd_client.h"
#include "qmp/node.h"
#include "storage/backups/backup_place.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/exports/export_place.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

/// Seconds that a write of the guest may wait for the old data to be copied; then the backup is given up.
constexpr std::uint64_t longest_copy = 10;
constexpr auto bridge_end_limit = std::chrono::seconds(60);
constexpr auto health_patience = std::chrono::seconds(15);

Json named(const char* key, std::string value) {
    Json arguments;
    arguments[key] = std::move(value);
    return arguments;
}

std::string health_name(std::size_t disk) {
    return fmt::format(".health-{}", disk);
}

bool has_node(const qmp::BlockGraph& graph, const std::string& name) {
    return graph.find(name) != nullptr;
}

Json action(const char* type, Json data) {
    return Json{{"type", type}, {"data", std::move(data)}};
}

}  // namespace

std::string BackupNodes::prefix() const {
    return fmt::format("vcb-{}-", record_.id.str().substr(0, 8));
}

std::string BackupNodes::node(std::size_t disk, char which) const {
    return fmt::format("{}{}{}", prefix(), disk, which);
}

async::Deadline BackupNodes::soon() const {
    return async::after(engine_.settings().command_timeout);
}

async::Task<> BackupNodes::ask(std::string command, Json arguments) {
    (void)co_await session_->execute(std::move(command), std::move(arguments), soon());
}

// --- making ------------------------------------------------------------------------------------------------

async::Task<> BackupNodes::add_scratch() {
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) co_await add_scratch_of(disk);
}

async::Task<> BackupNodes::add_scratch_of(std::size_t disk) {
    const BackupDisk& part = record_.disks[disk];
    std::string below = part.root;
    for (const char which : {'b', 'a'}) {
        qmp::NodeOptions options;
        options.discard = true;
        const std::string path = scratch_of(engine_.catalog(), record_.id, part, which).path();
        Json file = qmp::file_node(node(disk, which) + "f", path, qmp::Access::read_write, options);
        Json image =
            qmp::format_node(node(disk, which), "qcow2", std::move(file), qmp::Access::read_write, options);
        image = qmp::with_backing(std::move(image), below);
        co_await ask("blockdev-add", std::move(image));
        below = node(disk, which);
    }
    Json filter;
    filter["driver"] = "copy-before-write";
    filter["node-name"] = node(disk, 'c');
    filter["file"] = part.root;
    filter["target"] = node(disk, 'b');
    filter["on-cbw-error"] = "break-snapshot";
    filter["cbw-timeout"] = longest_copy;
    co_await ask("blockdev-add", std::move(filter));
}

async::Task<qmp::CallTimes> BackupNodes::hold() {
    Json arguments;
    arguments["actions"] = Json::array();
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) {
        const BackupDisk& part = record_.disks[disk];
        if (part.tracked) {
            Json bitmap{{"node", part.layer}, {"name", record_.checkpoint}, {"persistent", true}};
            arguments["actions"].push_back(action("block-dirty-bitmap-add", std::move(bitmap)));
        }
        Json job;
        job["job-id"] = node(disk, 'j');
        job["device"] = part.root;
        job["target"] = node(disk, 'a');
        job["sync"] = "none";
        job["filter-node-name"] = node(disk, 'i');
        job["auto-dismiss"] = false;
        arguments["actions"].push_back(action("blockdev-backup", std::move(job)));
    }
    const auto answer = co_await session_->ask("transaction", std::move(arguments),
                                               async::after(engine_.settings().switch_timeout));
    co_return answer.times;
}

async::Task<> BackupNodes::put_filters() {
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) {
        co_await set_drive(record_.disks[disk], node(disk, 'c'));
        co_await end_job(disk);
    }
}

async::Task<> BackupNodes::set_drive(const BackupDisk& disk, std::string node) {
    Json arguments;
    arguments["path"] = disk.device;
    arguments["property"] = "drive";
    arguments["value"] = std::move(node);
    co_await ask("qom-set", std::move(arguments));
}

/// Where the job has ended in another way than by our cancel, what it should have held is not there.
async::Task<> BackupNodes::end_job(std::size_t disk) {
    qmp::Job job(session_, node(disk, 'j'));
    co_await job.attach(soon());
    if (job.ended())
        throw Error(ErrorCode::qemu_failed, "the moment could not be held: a backup job of QEMU has ended");
    co_await job.cancel(soon());
    std::exception_ptr end;
    co_await async::keep_failure(job.finish(async::after(bridge_end_limit)), end);
    if (end && to_error(end).code() != ErrorCode::cancelled) std::rethrow_exception(end);
}

async::Task<> BackupNodes::add_readers() {
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) co_await add_health(disk);
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk)
        if (record_.disks[disk].incremental) co_await add_changes(disk, 'a');
}

/// A job can read neither a, as long as that stands on b, which the filter writes to, nor, but from the filter's node, see
/// that the filter has given up.
async::Task<> BackupNodes::add_copy_sources() {
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) {
        co_await add_health(disk);
        if (record_.disks[disk].incremental) co_await add_changes(disk, 'h');
        co_await remove_one(node(disk, 'a'));
        co_await add_alone(disk, 'a');
    }
}

/// A scratch image that nothing is written to any more, with nothing below it.
async::Task<> BackupNodes::add_alone(std::size_t disk, char which) {
    const qmp::NodeOptions options;
    Json file =
        qmp::file_node(node(disk, which) + "f", scratch(disk, which).path(), qmp::Access::read_only, options);
    Json image =
        qmp::format_node(node(disk, which), "qcow2", std::move(file), qmp::Access::read_only, options);
    image = qmp::without_backing(std::move(image));
    co_await ask("blockdev-add", std::move(image));
}

/// The guest's writes go straight to its disk again.
async::Task<> BackupNodes::end_filter(std::size_t disk) {
    co_await remove_one(node(disk, 'h'));
    co_await set_drive(record_.disks[disk], record_.disks[disk].root);
    co_await remove_one(node(disk, 'c'));
    co_await remove_one(node(disk, 'b'));
    co_await add_alone(disk, 'b');
}

async::Task<> BackupNodes::remove_one(std::string node) {
    std::vector<std::string> one{std::move(node)};
    co_await remove_nodes(session_, std::move(one), soon());
}

async::Task<> BackupNodes::add_health(std::size_t disk) {
    Json health;
    health["driver"] = "snapshot-access";
    health["node-name"] = node(disk, 'h');
    health["file"] = node(disk, 'c');
    co_await ask("blockdev-add", std::move(health));
}

/// What was written since the moment is marked, too: more than has to be read, and never less.
async::Task<> BackupNodes::add_changes(std::size_t disk, char which) {
    (void)co_await add_merged_bitmap(session_, node(disk, which), record_.disks[disk].layer, record_.since,
                                     soon());
}

async::Task<> BackupNodes::start_server(std::string socket) {
    Json arguments;
    arguments["addr"] = Json{{"type", "unix"}, {"data", named("path", std::move(socket))}};
    co_await ask("nbd-server-start", std::move(arguments));
}

async::Task<> BackupNodes::show() {
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) {
        const BackupDisk& part = record_.disks[disk];
        Json shown;
        shown["type"] = "nbd";
        shown["id"] = node(disk, 'a');
        shown["node-name"] = node(disk, 'a');
        shown["name"] = engine_.catalog().disk(part.disk).name;
        if (part.incremental) {
            Json bitmap{{"node", node(disk, 'a')}, {"name", shown_bitmap_name(record_.since)}};
            shown["bitmaps"] = Json::array();
            shown["bitmaps"].push_back(std::move(bitmap));
        }
        co_await ask("block-export-add", std::move(shown));
        Json health;
        health["type"] = "nbd";
        health["id"] = node(disk, 'h');
        health["node-name"] = node(disk, 'h');
        health["name"] = health_name(disk);
        co_await ask("block-export-add", std::move(health));
    }
}

// --- copying -----------------------------------------------------------------------------------------------

ScratchFile BackupNodes::scratch(std::size_t disk, char which) const {
    return scratch_of(engine_.catalog(), record_.id, record_.disks[disk], which);
}

async::Task<> BackupNodes::add_target(Json image) {
    co_await ask("blockdev-add", std::move(image));
}

async::Task<> BackupNodes::remove_target(std::size_t disk) {
    std::vector<std::string> one{node(disk, 't')};
    co_await remove_nodes(session_, std::move(one), soon());
}

Json BackupNodes::copy_arguments(std::size_t disk) const {
    Json arguments{{"device", node(disk, 'h')}, {"target", node(disk, 't')}, {"sync", "full"}};
    if (!record_.disks[disk].incremental) return arguments;
    arguments["sync"] = "bitmap";
    arguments["bitmap"] = shown_bitmap_name(record_.since);
    arguments["bitmap-mode"] = "never";
    return arguments;
}

Json BackupNodes::patch_arguments(std::size_t disk, char which) const {
    return Json{{"device", node(disk, which)}, {"target", node(disk, 't')}, {"sync", "top"}};
}

async::Task<> BackupNodes::break_off(std::string name) {
    qmp::Job job(session_, std::move(name));
    co_await job.attach(soon());
    if (job.status() == qmp::JobStatus::null) co_return;
    std::exception_ptr ignored;
    if (!job.ended()) co_await async::keep_failure(job.cancel(soon()), ignored);
    co_await async::keep_failure(job.finish(async::after(bridge_end_limit)), ignored);
}

// --- taking away -------------------------------------------------------------------------------------------

async::Task<> BackupNodes::remove() {
    co_await stop_server();
    co_await break_off_jobs();
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) co_await remove_nodes_of(disk);
}

/// Our exports end, whoever reads them; then the server, unless somebody else uses it.
async::Task<> BackupNodes::stop_server() {
    std::vector<std::string> names{"BLOCK_EXPORT_DELETED"};
    qmp::EventQueue deleted(session_, std::move(names));
    const Json answer = co_await session_->execute("query-block-exports", Json::object(), soon());
    std::set<std::string> ours;
    bool others = false;
    for (const JsonReader& shown :
         JsonReader(answer, "answer of query-block-exports", ErrorCode::qemu_failed).elements()) {
        const std::string id = shown.at("id").string();
        others = others || (!id.starts_with(prefix()) && shown.at("type").string() == "nbd");
        if (!id.starts_with(prefix())) continue;
        ours.insert(id);
        if (shown.at("shutting-down").boolean()) continue;
        Json arguments{{"id", id}, {"mode", "hard"}};
        co_await ask("block-export-del", std::move(arguments));
    }
    while (!ours.empty()) {
        const qmp::Event event = co_await deleted.next(soon(), "the end of the NBD exports of a backup");
        ours.erase(event.read().at("id").string());
    }
    // Whether the server is ours, the directory of its socket knows.
    if (others || !place_of_backup(engine_, record_.id).has_socket()) co_return;
    std::exception_ptr not_running;
    co_await async::keep_failure(session_->execute("nbd-server-stop", Json::object(), soon()), not_running);
}

/// Whatever is left of them.
async::Task<> BackupNodes::break_off_jobs() {
    const Json answer = co_await session_->execute("query-jobs", Json::object(), soon());
    for (const JsonReader& left :
         JsonReader(answer, "answer of query-jobs", ErrorCode::qemu_failed).elements()) {
        const std::string id = left.at("id").string();
        if (id.starts_with(prefix())) co_await break_off(id);
    }
}

async::Task<> BackupNodes::remove_nodes_of(std::size_t disk) {
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(session_, soon());
    const BackupDisk& part = record_.disks[disk];
    for (const char which : {'t', 'h'}) {
        std::vector<std::string> one{node(disk, which)};
        co_await remove_nodes(session_, std::move(one), soon());
    }
    const std::string filter = node(disk, 'c');
    const auto& devices = graph.devices();
    const bool in_use = std::any_of(devices.begin(), devices.end(),
                                    [&](const qmp::Device& device) { return device.root == filter; });
    if (in_use) co_await set_drive(part, part.root);
    for (const char which : {'c', 'a', 'b'}) {
        if (!has_node(graph, node(disk, which))) continue;
        std::vector<std::string> one{node(disk, which)};
        co_await remove_nodes(session_, std::move(one), soon());
    }
}

async::Task<bool> BackupNodes::there() {
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(session_, soon());
    bool all = true;
    for (std::size_t disk = 0; disk < record_.disks.size(); ++disk) {
        const auto& devices = graph.devices();
        all = all && std::any_of(devices.begin(), devices.end(),
                                 [&](const qmp::Device& device) { return device.root == node(disk, 'c'); });
    }
    co_return all;
}

void check_health(const std::string& socket, std::size_t disks) {
    for (std::size_t disk = 0; disk < disks; ++disk) {
        std::optional<qmp::NbdClient> client;
        try {
            client.emplace(connect_as_client(socket), health_name(disk), health_patience);
        } catch (const Error& error) {
            throw Error(ErrorCode::unreachable, "the NBD server of the backup does not answer: {}",
                        error.what());
        }
        std::vector<std::byte> buffer(std::min<std::uint64_t>(client->size(), 512));
        try {
            client->begin_read(buffer, 0);
            client->end_read();
        } catch (const Error& error) {
            if (error.code() != ErrorCode::qemu_failed) throw;
            throw Error(ErrorCode::qemu_failed,
                        "the moment is not held any more: what the guest overwrote could not be kept, for "
                        "lack of room or because that took longer than {} s",
                        longest_copy);
        }
    }
}

}  // namespace volchain::storage
