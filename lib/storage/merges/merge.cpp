// SPDX-License-Identifier: MIT
#include "storage/merges/merge.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "storage/merges/merge_bitmaps.h"
#include "storage/merges/merge_neighbours.h"
#include "storage/qemu/helper.h"
#include "storage/volumes/last_written.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// For the end of a job that has nothing left to copy.
constexpr auto job_end_limit = std::chrono::seconds(60);
constexpr auto look_again_interval = std::chrono::seconds(30);
constexpr auto rebase_limit = std::chrono::seconds(60);

/// Mirror and commit have copied everything, and the guest's writes stand still, from this status on.
bool passed(qmp::JobStatus status) {
    return status == qmp::JobStatus::waiting || status == qmp::JobStatus::pending ||
           status == qmp::JobStatus::concluded || status == qmp::JobStatus::null;
}

bool refused(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const qmp::CommandError&) {
        return true;
    } catch (...) {
        return false;
    }
}

}  // namespace

std::string backing_name(const Catalog& catalog, const Uuid& upper, const Uuid& lower) {
    const fs::path below(catalog.path(catalog.volume(lower)));
    const fs::path above(catalog.path(catalog.volume(upper)));
    if (catalog.volume(upper).pool != catalog.volume(lower).pool) return below.string();
    return below.lexically_relative(above.parent_path()).string();
}

bool Merge::damaged() const {
    return step_.kind == MergeKind::commit && catalog().has({ObjectKind::volume, step_.lower}) &&
           catalog().volume(step_.lower).mark == VolumeMark::illegal;
}

bool Merge::switching() const {
    return step_.kind == MergeKind::commit && catalog().volume(step_.upper).mark == VolumeMark::illegal;
}

std::string Merge::job_id() const {
    return fmt::format("vc-{}-{}", word(step_.kind), step_.upper.str().substr(0, 18));
}

// --- where things are --------------------------------------------------------------------------------------

async::Task<> Merge::look_again() {
    const Uuid vm = catalog().disk(step_.disk).vm;
    if (vm) {
        co_await engine_.vm(vm).look_now(async::after(engine_.settings().greeting_timeout * 2));
        if (engine_.vm(vm).live())
            co_await engine_.vm(vm).know_disks();
        else if (!engine_.vm(vm).down() && !switching())
            (void)engine_.vm(vm).session();  // throws Unreachable, and why
    }
    std::vector<Uuid> volumes{step_.upper};
    if (step_.lower) volumes.push_back(step_.lower);
    for (const Uuid& volume : step_.removed) volumes.push_back(volume);
    for (const Uuid& child : step_.children) volumes.push_back(child);
    co_await engine_.inspect_volumes(std::move(volumes));
}

bool Merge::done() const {
    if (step_.kind == MergeKind::stream) return catalog().backing(step_.upper) == step_.lower;
    const bool turned = std::any_of(step_.children.begin(), step_.children.end(), [&](const Uuid& child) {
        return catalog().has({ObjectKind::volume, child}) && catalog().backing(child) == step_.lower;
    });
    if (!is_active()) return finished_ || turned;
    const Uuid vm = catalog().disk(step_.disk).vm;
    if (vm && engine_.vm(vm).live()) return engine_.vm(vm).find_disk(path(step_.lower)) != nullptr;
    return finished_;
}

async::Task<> Merge::find_place() {
    place_ = Workplace::in_vm(engine_, step_.upper);
    if (place_) co_return note_nodes();
    std::set<Uuid> written{step_.kind == MergeKind::commit ? step_.lower : step_.upper};
    Uuid top = step_.upper;
    if (step_.kind == MergeKind::commit && child_) top = child_;
    written.insert(top);
    place_ = co_await Workplace::open(engine_, top, std::move(written));
}

void Merge::note_nodes() {
    const Vm& vm = engine_.vm(catalog().disk(step_.disk).vm);
    for (const Uuid& volume : step_.released) {  // the topmost first: it has the next one as its backing node
        const LiveDisk* const disk = vm.disk_with_layer(path(volume));
        if (disk == nullptr) continue;
        const LiveLayer& layer = *disk->layer(path(volume));
        superfluous_.push_back(layer.node);
        superfluous_.push_back(layer.file_node);
    }
}

/// Of those that stand on the upper volume, the one that a running guest uses, else any.
Uuid Merge::child_of_upper() const {
    const std::vector<Uuid> children = catalog().children(step_.upper);
    for (const Uuid& child : children)
        if (Workplace::in_vm(engine_, child)) return child;
    return children.empty() ? Uuid{} : children.front();
}

// --- the whole ---------------------------------------------------------------------------------------------

async::Task<> Merge::run(std::uint64_t done_before, std::uint64_t total) {
    done_before_ = done_before;
    total_ = total;
    co_await look_again();
    child_ = child_of_upper();
    if (is_active() && switching()) co_await settle_switch();
    if (!done()) {
        co_await copy();
        co_await look_again();
        if (!done())
            throw Error(ErrorCode::qemu_failed,
                        "QEMU ended the {} of {} without an error, but the chain is as before",
                        word(step_.kind), name(step_.upper));
    }
    switched_ = true;
    co_await turn_others();
    co_await delete_nodes();
}

async::Task<> Merge::copy() {
    const Job::Copying copying(*job_);
    co_await job_->step("copy");
    co_await find_place();
    BlockJob block_job(engine_, job_, place_->session(), job_id(), path(target()));
    block_job.count(done_before_, total_);
    std::exception_ptr failure;
    co_await async::keep_failure(work(block_job), failure);
    if (failure) {
        co_await async::ignore_cancellation();
        co_await block_job.break_off();
    }
    std::exception_ptr not_closed;
    co_await async::keep_failure(place_->close(), not_closed);
    if (failure) std::rethrow_exception(failure);
    if (not_closed) std::rethrow_exception(not_closed);
    finished_ = true;
}

async::Task<> Merge::work(BlockJob& block_job) {
    const bool there = co_await block_job.take_up();
    const bool over = there && (block_job.status() == qmp::JobStatus::concluded ||
                                block_job.status() == qmp::JobStatus::aborting);
    if (over) co_await block_job.break_off();
    if (!there || over) {
        co_await check_room();
        co_await check_bitmaps();
        const VolumeMark before = catalog().volume(target()).mark;
        if (step_.kind == MergeKind::commit) co_await mark(step_.lower, VolumeMark::illegal);
        std::exception_ptr failure;
        co_await async::keep_failure(start(block_job), failure);
        const bool unchanged = failure && refused(failure);
        if (unchanged && step_.kind == MergeKind::commit) co_await mark(step_.lower, before);
        if (failure) std::rethrow_exception(failure);
    }
    const bool active = step_.kind == MergeKind::commit && place_->root() == place_->node(step_.upper);
    if (active)
        co_await finish_active(block_job);
    else
        co_await finish_passive(block_job);
}

async::Task<> Merge::check_room() {
    std::vector<LayerFile> sources;
    for (const Uuid& volume : step_.released) sources.push_back(layer_file(catalog(), volume));
    const bool zeroes = step_.kind == MergeKind::commit && !child_.nil();
    auto look = [sources = std::move(sources), into = layer_file(catalog(), target()), where = path(target()),
                 zeroes] { return std::pair(room_needed(sources, into, zeroes), room_beside(where)); };
    const std::pair<std::uint64_t, std::uint64_t> measured = co_await engine_.files().run(std::move(look));
    const auto& [needed, room] = measured;
    if (room < needed)
        throw Error(ErrorCode::no_space,
                    "{} grows by up to {} bytes, and {} are free in its file system; nothing was changed",
                    name(target()), needed, room);
}

/// A raw volume holds no bitmaps. What stands on it afterwards would go on with a recording that has lost its beginning, and
/// would not know.
async::Task<> Merge::check_bitmaps() {
    const bool covered = step_.kind == MergeKind::commit && !child_.nil();
    if (!covered || catalog().volume(step_.lower).format != VolumeFormat::raw) co_return;
    const qmp::BlockGraph graph = co_await place_->graph();
    const qmp::Node* const upper = graph.find(place_->node(step_.upper));
    if (upper == nullptr) co_return;
    for (const qmp::DirtyBitmap& bitmap : upper->bitmaps)
        if (bitmap.persistent && bitmap.recording && !bitmap.inconsistent)
            throw Error(
                ErrorCode::unsupported,
                "{} is raw and cannot hold bitmap {} of {}; merge in the direction 'stream', or remove the "
                "bitmap",
                name(step_.lower), quote(bitmap.name), name(step_.upper));
}

async::Task<> Merge::mark(Uuid volume, VolumeMark as) {
    VolumeRecord record = catalog().volume(volume);
    if (record.mark == as) co_return;
    record.mark = as;
    Changes changes;
    changes.put(std::move(record));
    co_await engine_.catalog().commit(std::move(changes), Durability::power);
}

async::Task<> Merge::start(BlockJob& block_job) {
    if (step_.kind == MergeKind::commit)
        co_await block_job.start("block-commit", commit_arguments());
    else
        co_await block_job.start("block-stream", stream_arguments());
}

Json Merge::commit_arguments() const {
    Json arguments;
    arguments["device"] = place_->root();
    arguments["top-node"] = place_->node(step_.upper);
    arguments["base-node"] = place_->node(step_.lower);
    // An active commit is never left pending: the guest's writes would hang.
    if (place_->root() == place_->node(step_.upper)) return arguments;
    arguments["backing-file"] = backing_name(catalog(), child_, step_.lower);
    arguments["auto-finalize"] = false;
    return arguments;
}

Json Merge::stream_arguments() const {
    Json arguments;
    arguments["device"] = place_->node(step_.upper);
    arguments["auto-finalize"] = false;
    if (step_.lower.nil()) return arguments;
    arguments["base-node"] = place_->node(step_.lower);
    arguments["backing-file"] = backing_name(catalog(), step_.upper, step_.lower);
    return arguments;
}

// --- the end of a job --------------------------------------------------------------------------------------

/// By a cheap question; false where that cannot tell.
async::Task<bool> Merge::no_bitmaps() {
    if (!place_->live()) co_return false;
    Vm& vm = engine_.vm(catalog().disk(step_.disk).vm);
    const bool known = co_await vm.disks_are_known();
    const LiveDisk* const disk = known ? vm.disk_with_layer(path(step_.upper)) : nullptr;
    if (disk == nullptr) co_return false;
    co_return std::all_of(disk->layers.begin(), disk->layers.end(),
                          [](const LiveLayer& layer) { return layer.bitmaps.empty(); });
}

async::Task<> Merge::unite_bitmaps() {
    const bool none = co_await no_bitmaps();
    if (none) co_return;
    const qmp::BlockGraph graph = co_await place_->graph();
    const std::vector<const qmp::Node*> chain = graph.chain(place_->root());
    const bool commit = step_.kind == MergeKind::commit;
    MergedLayers merged;
    merged.top = chain.front();
    for (const qmp::Node* node : chain) {
        const bool begun = !merged.layers.empty();
        if (!begun && node->name != place_->node(step_.upper)) {
            merged.above = node;
            continue;
        }
        const bool is_lower = step_.lower && node->name == place_->node(step_.lower);
        if (is_lower && !commit) break;
        merged.layers.push_back(node);
        if (is_lower) break;
    }
    if (merged.layers.empty())
        throw Error(ErrorCode::broken_chain, "{} is not in the chain in QEMU any more", name(step_.upper));
    merged.survivor = commit ? merged.layers.back() : merged.layers.front();
    merged.covered = !catalog().children(step_.upper).empty();
    const std::vector<Uuid> above = volumes_above(catalog(), step_.upper);
    std::vector<Uuid> below = step_.lower ? catalog().chain(step_.lower) : std::vector<Uuid>();
    if (commit) below.erase(below.begin());
    co_await engine_.inspect_volumes(volumes_not_in(graph, catalog(), above));
    co_await engine_.inspect_volumes(volumes_not_in(graph, catalog(), below));
    merged.names_above = bitmap_names(graph, catalog(), above);
    merged.names_below = bitmap_names(graph, catalog(), below);
    std::optional<Json> transaction = bitmap_transaction(merged);
    if (transaction)
        (void)co_await place_->session()->execute("transaction", *std::move(transaction), soon());
}

async::Task<> Merge::finish_passive(BlockJob& block_job) {
    const bool pending = co_await block_job.run_until(BlockJob::Goal::pending);
    if (pending) {
        co_await job_->step("bitmaps");
        co_await unite_bitmaps();
        co_await place_->flush(target());
        const Job::Unstoppable unstoppable(*job_);
        co_await job_->step_through("switch");
        co_await block_job.finalize();
    }
    co_await block_job.finish(async::after(job_end_limit));
}

async::Task<> Merge::finish_active(BlockJob& block_job) {
    std::exception_ptr failure;
    bool ready = false;
    co_await async::keep_result(block_job.run_until(BlockJob::Goal::ready), ready, failure);
    outrun_ = failure && to_error(failure).code() == ErrorCode::busy;
    if (failure) std::rethrow_exception(failure);
    if (!ready) co_return co_await block_job.finish(soon());
    co_await job_->step("bitmaps");
    co_await unite_bitmaps();
    const Job::Unstoppable unstoppable(*job_);
    if (place_->live()) co_await mark(step_.upper, VolumeMark::illegal);
    co_await job_->step_through("switch");
    // What comes between this flush and the one after the switch is as little as can be.
    if (place_->live()) co_await place_->flush(step_.lower);
    co_await async::keep_failure(complete(block_job), failure);
    if (!failure) co_return;
    if (!place_->live()) std::rethrow_exception(failure);
    co_await judge_switch(block_job, failure);
}

async::Task<> Merge::complete(BlockJob& block_job) {
    co_await block_job.complete();
    // What the guest has written since has to be copied, and there has to be a moment in which nothing is under way.
    co_await block_job.finish(async::after(engine_.settings().catch_up_limit));
    if (place_->live()) co_await place_->flush(step_.lower);
}

/// The switch did not end as it should.
async::Task<> Merge::judge_switch(BlockJob& block_job, std::exception_ptr failure) {
    if (!place_->session()->closed()) {
        co_await block_job.break_off();
        co_await look_again();
        if (done()) co_return;
    } else if (passed(block_job.status())) {
        // The guest had passed to the lower volume, but what was written to it last may not be on the medium.
        job_->log().notice("QEMU ended in the moment of the switch, and after it");
        co_return co_await settle_by_contents();
    }
    co_await mark(step_.upper, VolumeMark::none);
    outrun_ = to_error(failure).code() == ErrorCode::timeout;
    if (!outrun_) std::rethrow_exception(failure);
    throw Error(ErrorCode::busy,
                "the guest writes without a pause: there was no moment to switch from {} to {}; the chain is "
                "as before",
                name(step_.upper), name(step_.lower));
}

// --- after a crash in the moment of the switch -------------------------------------------------------------

async::Task<> Merge::settle_switch() {
    const Uuid vm = catalog().disk(step_.disk).vm;
    while (vm) {
        co_await engine_.vm(vm).look_now(async::after(engine_.settings().greeting_timeout * 2));
        if (engine_.vm(vm).live()) co_return co_await settle_live();
        if (engine_.vm(vm).down()) break;
        std::exception_ptr ignored;
        co_await async::keep_failure(engine_.vm(vm).wait_changed(async::after(look_again_interval)), ignored);
    }
    co_await settle_by_contents();
}

async::Task<> Merge::settle_live() {
    const std::shared_ptr<qmp::Session> session = engine_.vm(catalog().disk(step_.disk).vm).session();
    BlockJob old(engine_, job_, session, job_id(), path(step_.lower));
    const bool there = co_await old.take_up();
    if (there) co_await old.break_off();
    co_await look_again();
    if (!done()) co_await mark(step_.upper, VolumeMark::none);
}

/// QEMU is gone, and nobody saw what became of the switch.
async::Task<> Merge::settle_by_contents() {
    LastWritten witness(path(step_.upper), catalog().volume(step_.upper).format, path(step_.lower),
                        catalog().volume(step_.lower).format);
    std::vector<ImageAccess> images;
    for (const Uuid& layer : catalog().chain(step_.upper)) images.emplace_back(path(layer), false);
    const LastWritten::Verdict verdict = co_await witness.judge(engine_, std::move(images));
    if (verdict == LastWritten::Verdict::same) {
        finished_ = true;
        co_return;
    }
    const bool went_on = verdict == LastWritten::Verdict::target;
    const Uuid winner = went_on ? step_.lower : step_.upper;
    const Uuid loser = went_on ? step_.upper : step_.lower;
    Changes changes;
    DiskRecord disk = catalog().disk(step_.disk);
    disk.active = winner;
    VolumeRecord good = catalog().volume(winner);
    good.mark = VolumeMark::none;
    VolumeRecord bad = catalog().volume(loser);
    bad.mark = VolumeMark::illegal;
    changes.put(std::move(disk)).put(std::move(good)).put(std::move(bad));
    co_await engine_.catalog().commit(std::move(changes), Durability::power);
    throw Error(ErrorCode::interrupted,
                "daemon and QEMU ended in the moment of the switch from {} to {}, and their contents differ; "
                "{} is taken for "
                "the one that the guest wrote to last; the other is kept, look at it before it is deleted",
                name(step_.upper), name(step_.lower), name(winner));
}

// --- afterwards --------------------------------------------------------------------------------------------

/// The others that stand on the upper volume of a commit: what they see is the same in the lower one.
async::Task<> Merge::turn_others() {
    if (step_.kind != MergeKind::commit) co_return;
    for (const Uuid& other : catalog().children(step_.upper)) {
        std::vector<ImageAccess> images;
        images.emplace_back(path(other), true);
        const qmp::QemuImg qemu_img = co_await helper_qemu_img(engine_, std::move(images));
        std::string format(word(catalog().volume(step_.lower).format));
        co_await qemu_img.change_backing(path(other), backing_name(catalog(), other, step_.lower),
                                         std::move(format), async::after(rebase_limit));
        co_await engine_.inspect_volume(other);
        if (catalog().backing(other) != step_.lower)
            throw Error(ErrorCode::qemu_failed, "{} still stands on {}", name(other), name(step_.upper));
    }
}

/// After a crash: nobody remembers them.
async::Task<> Merge::look_for_nodes(std::shared_ptr<qmp::Session> session) {
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(session, soon());
    for (const Uuid& volume : step_.released) {
        const qmp::Node* const layer = graph.layer_of_file(path(volume));
        if (layer == nullptr) continue;
        superfluous_.push_back(layer->name);
        superfluous_.emplace_back(layer->child("file"));
    }
}

/// What was added to QEMU by name stays there until it is deleted by name, and keeps its file open.
async::Task<> Merge::delete_nodes() {
    const Uuid vm = catalog().disk(step_.disk).vm;
    if (!vm || !engine_.vm(vm).live()) co_return;
    const std::shared_ptr<qmp::Session> session = engine_.vm(vm).session();
    if (superfluous_.empty()) co_await look_for_nodes(session);
    for (std::string& node : superfluous_) {
        if (node.empty()) continue;
        Json arguments;
        arguments["node-name"] = std::move(node);
        std::exception_ptr
            gone_already;  // with the format node, or with the job; QEMU refuses where it is in use
        co_await async::keep_failure(session->execute("blockdev-del", std::move(arguments), soon()),
                                     gone_already);
    }
    co_await engine_.vm(vm).read_disks();
}

}  // namespace volchain::storage
