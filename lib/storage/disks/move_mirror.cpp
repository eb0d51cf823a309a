// SPDX-License-Identifier: MIT
#include "storage/disks/move_mirror.h"

#include "base/text.h"
#include "storage/images/overlay_file.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// From "complete" to the end of the mirror, at most.
constexpr auto pass_limit = std::chrono::seconds(60);

}  // namespace

std::unique_ptr<BlockJob> MoveMirror::new_block_job() const {
    return std::make_unique<BlockJob>(engine_, job_, session(), "volchain-move-" + disk_.str().substr(0, 8),
                                      plan_.new_path(catalog(), active()));
}

async::Task<> MoveMirror::make_target() {
    const NewFile target = plan_.place_of(catalog(), *plan_.find(active()));
    if (!stands_alone()) {
        const Uuid below = catalog().backing(active());
        const MovedVolume* const entry = plan_.find(below);
        const VolumeRecord& parent = catalog().volume(below);
        const std::string& parent_file = entry != nullptr ? entry->file : parent.file;
        OverlayFile overlay(target.pool, parent_file, parent.format, target.file);
        overlay.size = catalog().facts(active()).size;
        auto make = [overlay = std::move(overlay)] { (void)create_overlay_file(overlay); };
        co_return co_await engine_.files().run(std::move(make));
    }
    const VolumeRecord& volume = catalog().volume(active());
    auto make = [target, pool = catalog().pool(volume.pool).path, file = volume.file] {
        make_image_file_like(target, pool, file);
    };
    co_await engine_.files().run(std::move(make));
    const auto helper = co_await start_storage_daemon(engine_, target.path());
    co_await format_image(engine_, job_, helper->session(), target, standalone_image(catalog(), active()),
                          "target");
    (void)co_await helper->stop(soon());
}

std::vector<PlannedLayer> MoveMirror::new_layers() const {
    std::vector<PlannedLayer> layers;
    for (const Uuid& volume : catalog().chain(active())) {
        const std::string number = std::to_string(layers.size());
        layers.push_back({volume, plan_.prefix + number, plan_.prefix + number + "f",
                          plan_.new_path(catalog(), volume), catalog().volume(volume).format});
        if (stands_alone()) break;
    }
    return layers;
}

async::Task<> MoveMirror::add_nodes() {
    const LiveDisk& disk = live_disk(engine_, disk_);
    qmp::NodeOptions options = disk.options;
    co_await add_layers(engine_, session(), new_layers(), options, qmp::Access::read_write);
}

async::Task<> MoveMirror::run(std::uint64_t done, std::uint64_t total) {
    block_job_ = new_block_job();
    block_job_->count(done, total);
    Json arguments;
    arguments["device"] = live_disk(engine_, disk_).active().node;
    arguments["target"] = plan_.prefix + "0";
    // What the layers below hold is in their copies.
    arguments["sync"] = stands_alone() ? "full" : "top";
    co_await block_job_->start("blockdev-mirror", std::move(arguments));
    const bool ready = co_await block_job_->run_until(BlockJob::Goal::ready);
    if (!ready) {
        co_await block_job_->finish(soon());
        throw Error(ErrorCode::qemu_failed, "the mirror ended before it was complete");
    }
}

/// Bitmaps go on in the copy: what was recorded is merged into new ones, and what the mirror has yet to write is recorded
/// by these themselves.
async::Task<> MoveMirror::carry_bitmaps() {
    const std::string source = live_disk(engine_, disk_).active().node;
    const auto qemu = session();
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(qemu, soon());
    const qmp::Node* const node = graph.find(source);
    Json actions = Json::array();
    if (node != nullptr)
        for (const qmp::DirtyBitmap& bitmap : node->bitmaps) add_bitmap(bitmap, source, actions);
    if (actions.empty()) co_return;
    Json arguments;
    arguments["actions"] = std::move(actions);
    (void)co_await qemu->execute("transaction", std::move(arguments), soon());
}

void MoveMirror::add_bitmap(const qmp::DirtyBitmap& bitmap, const std::string& source, Json& actions) const {
    if (!bitmap.persistent || bitmap.inconsistent) return;
    const std::string target = plan_.prefix + "0";
    Json sources = Json::array();
    sources.push_back({{"node", source}, {"name", bitmap.name}});
    actions.push_back({{"type", "block-dirty-bitmap-add"},
                       {"data",
                        {{"node", target},
                         {"name", bitmap.name},
                         {"granularity", bitmap.granularity},
                         {"persistent", true},
                         {"disabled", !bitmap.recording}}}});
    actions.push_back(
        {{"type", "block-dirty-bitmap-merge"},
         {"data", {{"node", target}, {"target", bitmap.name}, {"bitmaps", std::move(sources)}}}});
}

async::Task<> MoveMirror::pass() {
    co_await flush();
    co_await block_job_->complete();
    co_await block_job_->finish(async::after(pass_limit));
    co_await flush();
}

async::Task<> MoveMirror::flush() {
    Json arguments;
    arguments["command-line"] = fmt::format("qemu-io {}0 flush", plan_.prefix);
    const auto qemu = session();
    const Json answer = co_await qemu->execute("human-monitor-command", std::move(arguments), soon());
    const std::string words = answer.is_string() ? answer.get<std::string>() : std::string();
    if (!words.empty())
        throw Error(ErrorCode::qemu_failed, "QEMU cannot flush the copy: {}", clipped(words, 300));
}

async::Task<bool> MoveMirror::has_passed() {
    const std::unique_ptr<BlockJob> old = new_block_job();
    const bool there = co_await old->take_up();
    if (there) co_await old->break_off();
    co_await engine_.vm(plan_.vm).read_disks();
    co_return engine_.vm(plan_.vm).find_disk(plan_.new_path(catalog(), active())) != nullptr;
}

async::Task<> MoveMirror::remove_new_nodes() {
    std::vector<std::string> nodes;
    for (std::size_t index = 0; index < std::max<std::size_t>(plan_.volumes.size(), 1); ++index) {
        const std::string node = plan_.prefix + std::to_string(index);
        nodes.push_back(node);
        nodes.push_back(node + "f");
    }
    std::exception_ptr failure;
    co_await async::keep_failure(remove_nodes(session(), std::move(nodes), soon()), failure);
    if (failure) job_->log().warning("new nodes stay in QEMU: {}", to_error(failure).what());
}

async::Task<> MoveMirror::remove_old_nodes() {
    const auto qemu = session();
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(qemu, soon());
    const MovedVolume* const entry = plan_.find(active());
    const qmp::Node* const top = graph.layer_of_file(entry->from_pool + "/" + entry->from_file);
    if (top != nullptr) {
        std::vector<std::string> nodes = nodes_below(graph, top->name);
        std::exception_ptr failure;
        co_await async::keep_failure(remove_nodes(qemu, std::move(nodes), soon()), failure);
        if (failure) job_->log().warning("old nodes stay in QEMU: {}", to_error(failure).what());
    }
    co_await engine_.vm(plan_.vm).read_disks();
}

async::Task<> MoveMirror::break_off() {
    co_await block_job_->break_off();
}

}  // namespace volchain::storage
