// SPDX-License-Identifier: MIT
#include "storage/checkpoints/drop_bitmap.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/jobs/held_volumes.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

Json bitmap_of(const std::string& node, const std::string& bitmap) {
    return Json{{"node", node}, {"name", bitmap}};
}

bool has_bitmap(const VolumeFacts& facts, const std::string& name) {
    return std::any_of(facts.bitmaps.begin(), facts.bitmaps.end(),
                       [&](const qcow2::Bitmap& bitmap) { return bitmap.name == name; });
}

class DropBitmap {
  public:
    DropBitmap(Engine& engine, std::vector<Uuid> disks, std::string bitmap)
        : engine_(engine), disks_(std::move(disks)), bitmap_(std::move(bitmap)) {}

    async::Task<> from_running(Uuid vm) {
        const auto session = engine_.vm(vm).session();
        const qmp::BlockGraph graph = co_await qmp::read_block_graph(session, soon());
        Json arguments;
        arguments["actions"] = Json::array();
        // One that was detached meanwhile is not in it.
        for (const Uuid& disk : disks_)
            if (catalog().has({ObjectKind::disk, disk}) && catalog().disk(disk).vm == vm)
                add_removals(graph, disk, arguments["actions"]);
        const bool any = !arguments["actions"].empty();
        if (any) (void)co_await session->execute("transaction", std::move(arguments), soon());
        if (any) co_await engine_.vm(vm).read_disks();
    }

    /// From all images of the disks that are not open in the VM.
    async::Task<> from_images() {
        for (const Uuid& disk : disks_) {
            if (!catalog().has({ObjectKind::disk, disk})) continue;
            const std::vector<Uuid> volumes = catalog().volumes_of_disk(disk);
            co_await engine_.inspect_volumes(volumes);
            for (const Uuid& volume : volumes)
                if (!in_vm_.contains(volume) && has_bitmap(catalog().facts(volume), bitmap_))
                    co_await from_image(volume);
        }
    }

    [[nodiscard]] std::vector<std::string> left() && { return std::move(left_); }

  private:
    [[nodiscard]] const Catalog& catalog() const { return engine_.catalog(); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    void add_removals(const qmp::BlockGraph& graph, const Uuid& disk, Json& actions) {
        const VolumeRecord& active = catalog().volume(catalog().disk(disk).active);
        const LiveDisk* const live = engine_.vm(catalog().disk(disk).vm).find_disk(catalog().path(active));
        if (live == nullptr) return;
        bool top = true;
        for (const qmp::Node* layer : graph.chain(live->active().node)) {
            const std::string file = graph.file(layer->name).value_or("");
            if (const VolumeRecord* volume = catalog().find_volume(file)) in_vm_.insert(volume->id);
            if (top) in_vm_.insert(active.id);
            if (layer->bitmap(bitmap_) != nullptr && top)
                actions.push_back(
                    {{"type", "block-dirty-bitmap-remove"}, {"data", bitmap_of(layer->name, bitmap_)}});
            else if (layer->bitmap(bitmap_) != nullptr)
                left_.push_back(file);
            top = false;
        }
    }

    /// One that cannot be had stays; but for the active one, where that is no checkpoint any more.
    async::Task<> from_image(Uuid volume) {
        const bool active = catalog().disk(catalog().volume(volume).disk).active == volume;
        const std::string path = catalog().path(catalog().volume(volume));
        std::exception_ptr failure;
        const bool held = export_holding(catalog(), volume) != nullptr || engine_.holds().held(volume);
        if (held && !active) {
            left_.push_back(path);
            co_return;
        }
        co_await async::keep_failure(remove_offline(path), failure);
        co_await engine_.inspect_volume(volume);
        if (!failure) co_return;
        const Error error = to_error(failure);
        if (active || error.code() == ErrorCode::cancelled) throw error;
        log().notice("bitmap {} stays in {} for now: {}", quote(bitmap_), quote(path), error.what());
        left_.push_back(path);
    }

    async::Task<> remove_offline(std::string path) {
        const qmp::NodeOptions options;
        const auto helper = co_await start_storage_daemon(engine_, path);
        Json file = qmp::file_node("file", path, qmp::Access::read_write, options);
        Json node = qmp::without_backing(
            qmp::format_node("image", "qcow2", std::move(file), qmp::Access::read_write, options));
        (void)co_await helper->session()->execute("blockdev-add", std::move(node), soon());
        Json bitmap = bitmap_of("image", bitmap_);
        (void)co_await helper->session()->execute("block-dirty-bitmap-remove", std::move(bitmap), soon());
        const bool clean = co_await helper->stop(soon());
        if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
    }

    Engine& engine_;
    std::vector<Uuid> disks_;
    std::string bitmap_;
    std::set<Uuid> in_vm_;  ///< volumes that the VM has open
    std::vector<std::string> left_;
};

}  // namespace

async::Task<std::vector<std::string>> drop_bitmap(Engine& engine, Uuid vm, bool live, std::vector<Uuid> disks,
                                                  std::string bitmap) {
    DropBitmap work(engine, std::move(disks), std::move(bitmap));
    if (live) co_await work.from_running(vm);
    co_await work.from_images();
    co_return std::move(work).left();
}

}  // namespace volchain::storage
