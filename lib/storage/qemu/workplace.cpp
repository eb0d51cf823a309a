// SPDX-License-Identifier: MIT
#include "storage/qemu/workplace.h"

#include "base/text.h"

namespace volchain::storage {
namespace {

/// As short as can be unique.
std::string layer_name(const Uuid& volume) {
    std::string text = volume.str();
    std::erase(text, '-');
    return "vc-" + text.substr(0, 16);
}

}  // namespace

std::shared_ptr<Workplace> Workplace::in_vm(Engine& engine, const Uuid& volume) {
    const Catalog& catalog = engine.catalog();
    const Uuid vm = catalog.disk(catalog.volume(volume).disk).vm;
    if (!vm || !engine.vm(vm).live()) return nullptr;
    const LiveDisk* const disk = engine.vm(vm).disk_with_layer(catalog.path(catalog.volume(volume)));
    if (disk == nullptr) return nullptr;
    std::shared_ptr<Workplace> place(new Workplace(engine, engine.vm(vm).session()));
    place->root_ = disk->active().node;
    for (const LiveLayer& layer : disk->layers)
        if (const VolumeRecord* found = catalog.find_volume(layer.path))
            place->nodes_[found->id] = layer.node;
    return place;
}

async::Task<std::shared_ptr<Workplace>> Workplace::open(Engine& engine, Uuid top, std::set<Uuid> written) {
    return open_chain(engine, top, std::move(written), {});
}

async::Task<std::shared_ptr<Workplace>> Workplace::open_to_copy(Engine& engine, Uuid top,
                                                                std::string new_image) {
    std::vector<ImageAccess> others;
    others.emplace_back(std::move(new_image), true);
    return open_chain(engine, top, {}, std::move(others));
}

async::Task<std::shared_ptr<Workplace>> Workplace::open_chain(Engine& engine, Uuid top,
                                                              std::set<Uuid> written,
                                                              std::vector<ImageAccess> others) {
    const Catalog& catalog = engine.catalog();
    const std::vector<Uuid> chain = catalog.chain(top);
    std::vector<ImageAccess> images = std::move(others);
    for (const Uuid& volume : chain)
        images.emplace_back(catalog.path(catalog.volume(volume)), written.contains(volume));
    auto helper = co_await start_storage_daemon(engine, std::move(images));
    co_return co_await open_in(engine, std::move(helper), chain, std::move(written));
}

async::Task<std::shared_ptr<Workplace>> Workplace::open_in(Engine& engine,
                                                           std::shared_ptr<qmp::StorageDaemon> helper,
                                                           std::vector<Uuid> chain, std::set<Uuid> written) {
    std::shared_ptr<Workplace> place(new Workplace(engine, helper->session()));
    place->helper_ = std::move(helper);
    std::string below;
    for (auto volume = chain.rbegin(); volume != chain.rend(); ++volume) {
        const bool writable = *volume == chain.front() && written.contains(*volume);
        co_await place->add_layer(*volume, writable, below);
        below = place->node(*volume);
    }
    place->root_ = below;
    co_return place;
}

async::Task<> Workplace::add_layer(Uuid volume, bool writable, std::string below) {
    const VolumeRecord& record = engine_.catalog().volume(volume);
    const qmp::NodeOptions options;
    std::string name = layer_name(volume);
    const std::string file_name = name + "-f";
    const qmp::Access access = writable ? qmp::Access::read_write : qmp::Access::read_only;
    // "Automatic" below: so that a job can make the layer writable.
    const qmp::Access file_access = writable ? access : qmp::Access::automatic;
    Json file = qmp::file_node(file_name, engine_.catalog().path(record), file_access, options);
    Json node = qmp::format_node(name, word(record.format), file_name, access, options);
    if (record.format == VolumeFormat::qcow2)
        node =
            below.empty() ? qmp::without_backing(std::move(node)) : qmp::with_backing(std::move(node), below);
    (void)co_await session_->execute("blockdev-add", std::move(file), soon());
    nodes_[volume] = name;
    Json added = node;
    (void)co_await session_->execute("blockdev-add", std::move(node), soon());
    added_[volume] = std::move(added);
}

async::Task<> Workplace::flush(Uuid volume) {
    if (live()) co_return co_await flush_in_vm(volume);
    // Opened once more as it is: QEMU flushes what it reopens (bdrv_reopen_prepare() in block.c). A job has made it writable.
    Json options = added_.at(volume);
    options["read-only"] = false;
    Json arguments;
    arguments["options"] = Json::array();
    arguments["options"].push_back(std::move(options));
    (void)co_await session_->execute("blockdev-reopen", std::move(arguments), soon());
}

/// QMP has no flush of one node; the human monitor's qemu-io has. It says nothing where all is well, and tells of a
/// failure in its answer.
async::Task<> Workplace::flush_in_vm(Uuid volume) {
    Json arguments;
    arguments["command-line"] = fmt::format("qemu-io {} flush", node(volume));
    const Json answer = co_await session_->execute("human-monitor-command", std::move(arguments), soon());
    const std::string words = answer.is_string() ? answer.get<std::string>() : std::string();
    if (!words.empty())
        throw Error(ErrorCode::qemu_failed, "QEMU cannot flush {}: {}",
                    engine_.catalog().describe({ObjectKind::volume, volume}), clipped(words, 300));
}

const std::string& Workplace::node(const Uuid& volume) const {
    const auto found = nodes_.find(volume);
    if (found == nodes_.end())
        throw Error(ErrorCode::broken_chain, "{} is not open where it is to be worked on",
                    engine_.catalog().describe({ObjectKind::volume, volume}));
    return found->second;
}

async::Task<qmp::BlockGraph> Workplace::graph() {
    return qmp::read_block_graph(session_, soon());
}

async::Task<> Workplace::close() {
    if (!helper_) co_return;
    const bool clean = co_await helper_->stop(soon());
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
}

}  // namespace volchain::storage
