// SPDX-License-Identifier: MIT
#include "storage/engine.h"

#include <algorithm>

#include "async/deadline.h"
#include "base/text.h"
#include "storage/documents/manifest.h"
#include "storage/memory/load_memory.h"
#include "storage/recovery.h"
#include "storage/vms/quiesce.h"

namespace volchain::storage {
namespace {

/// How long a start waits for operations of an earlier life to be settled before it lets the daemon be used.
/// And how long for the first look at all images.
constexpr auto first_look_limit = std::chrono::seconds(15);
constexpr auto recovery_limit = std::chrono::seconds(20);
/// How long a stop waits for operations to end by themselves.
constexpr auto stop_limit = std::chrono::seconds(30);
constexpr auto last_manifests_limit = std::chrono::seconds(5);
constexpr auto manifest_limit = std::chrono::seconds(30);
constexpr std::size_t threads_a_pool = 2;
constexpr auto last_thaw_limit = std::chrono::seconds(5);
/// How long who wants to make a pool waits for others who do.
constexpr auto new_pools_limit = std::chrono::seconds(60);

}  // namespace

Engine::Engine(async::Executor executor, Settings settings, const std::string& state_directory,
               std::string runtime_directory)
    : executor_(executor),
      settings_(std::move(settings)),
      state_directory_(state_directory),
      runtime_directory_(std::move(runtime_directory)),
      catalog_(state_directory + "/volchain.db"),
      locks_(catalog_),
      holds_(catalog_, locks_),
      tasks_(executor),
      exports_(*this),
      backups_(*this),
      jobs_(executor, catalog_, locks_, settings_.keep_finished_jobs),
      schedules_(*this) {
    catalog_.watch([this](ObjectId object, ChangeKind change) { tell(object, change); });
    locks_.watch([this](ObjectId object) { lock_changed(object); });
    jobs_.watch([this](Uuid job) { tell({ObjectKind::job, job}, ChangeKind::changed); });
}

void Engine::tell(ObjectId object, ChangeKind change) {
    if (observer_ != nullptr) observer_->object_changed(object, change);
}

// --- life
// ------------------------------------------------------------------------------------------------------------

async::Task<> Engine::start() {
    // First of all, as those who were left frozen cannot wait.
    for (const auto& [id, record] : catalog_.vms()) (void)attend(record);

    tasks_.spawn(look_at_images(), "looking at all images");
    co_await wait_for_images(async::after(first_look_limit));

    // Recovery takes its locks before anybody else can; only then are the disks of running VMs held against
    // records.
    resume_unfinished_jobs(*this);
    const auto limit = async::after(recovery_limit);
    for (auto& [id, vm] : vms_) vm->start();
    co_await look_at_vms();
    co_await exports_.start();
    backups_.start();
    co_await wait_for_recovery(*this, limit);
    co_await schedules_.start();
    tasks_.spawn(watch_pools(), "watching the pools");
    tasks_.spawn(write_stale_manifests(), "writing manifests");
    write_manifests();
}

async::Task<> Engine::look_at_images() {
    co_await async::ignore_cancellation();  // as inspect_volumes() does, for the same reason
    async::TaskGroup looks(executor_);
    for (const Uuid& pool : catalog_.ids(ObjectKind::pool))
        looks.spawn(inspect_pool(pool, true), "looking at a pool");
    looks.spawn(inspect_volumes(catalog_.ids(ObjectKind::volume)), "looking at all images");
    co_await looks.drain();
    images_looked_at_ = true;
    images_seen_.notify();
}

/// A pool on a server that is away must not keep all others waiting.
async::Task<> Engine::wait_for_images(async::Deadline deadline) {
    try {
        while (!images_looked_at_) co_await images_seen_.wait(deadline, "the first look at all images");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        log().warning("some images could not be looked at yet: a pool does not answer; the start goes on");
    }
}

/// So that the first who asks is told what runs. A monitor that does not answer is waited for by its VM.
async::Task<> Engine::look_at_vms() {
    const auto look = [](Vm& vm, async::Deadline deadline) -> async::Task<> {
        std::exception_ptr told_as_state;
        co_await async::keep_failure(vm.look_now(deadline), told_as_state);
    };
    async::TaskGroup looks(executor_);
    const auto deadline = async::after(settings_.greeting_timeout);
    for (auto& [id, vm] : vms_) looks.spawn(look(*vm, deadline), "looking at a VM");
    co_await looks.drain();
}

async::Task<> Engine::stop() {
    co_await async::ignore_cancellation();
    co_await schedules_.stop();
    co_await jobs_.stop(async::after(stop_limit));
    co_await thaw_all();
    stopping_ = true;
    co_await tasks_.stop();
    co_await exports_.stop();
    co_await backups_.stop();
    // What a pool that is away keeps from being written now is written after the next start.
    std::exception_ptr left;
    co_await async::keep_failure(
        async::with_deadline(write_manifests_now(), async::after(last_manifests_limit), "the manifests"),
        left);
    // Calls are still answered, and some let go of a VM.
    const auto vms = vms_;
    for (const auto& [id, vm] : vms) co_await vm->stop();
}

/// A guest that is left frozen stays so until the next start.
async::Task<> Engine::thaw_all() {
    const async::Deadline end = async::after(last_thaw_limit);
    for (const Uuid& id : catalog_.ids(ObjectKind::vm)) {
        if (!catalog_.frozen_since(id)) continue;
        std::exception_ptr timeout;
        co_await async::keep_failure(wait_thawed(id, end), timeout);
        if (catalog_.frozen_since(id))
            log()
                .with("VOLCHAIN_VM", id.str())
                .error(
                    "{}: its guest may be FROZEN, and its agent does not answer to the thaw; it will be "
                    "thawed "
                    "when volchaind is started again",
                    catalog_.describe({ObjectKind::vm, id}));
    }
}

void Engine::spawn(async::Task<> task, std::string what) noexcept {
    try {
        tasks_.spawn(std::move(task), what);
    } catch (const std::exception& error) {
        log().notice("{}", error.what());  // shutting down; what is left is on disk
    }
}

// --- VMs
// -------------------------------------------------------------------------------------------------------------

Vm& Engine::vm(const Uuid& id) {
    const auto found = vms_.find(id);
    if (found == vms_.end()) throw Error(ErrorCode::not_found, "there is no VM {}", id.str());
    return *found->second;
}

const Vm& Engine::vm(const Uuid& id) const {
    const auto found = vms_.find(id);
    if (found == vms_.end()) throw Error(ErrorCode::not_found, "there is no VM {}", id.str());
    return *found->second;
}

Vm& Engine::attend(const VmRecord& record) {
    if (stopping_) throw Error(ErrorCode::cancelled, "no VM is taken on any more: shutting down");
    const auto vm = std::make_shared<Vm>(executor_, record, settings_, static_cast<VmOwner&>(*this));
    vms_[record.id] = vm;
    if (catalog_.frozen_since(record.id))
        vm->spawn(thaw_until_answered(*this, *vm, vm->boots()), "thawing the guest");
    return *vm;
}

async::Task<> Engine::neglect(Uuid id) {
    const auto found = vms_.find(id);
    if (found == vms_.end()) co_return;
    const std::shared_ptr<Vm> vm = std::move(found->second);
    vms_.erase(found);
    adoption_waits_.erase(id);
    co_await vm->stop();
}

async::Task<> Engine::attend_anew(VmRecord record) {
    // Until its tasks have ended: a thaw that it was sending is the new one's to send.
    const std::shared_ptr<Vm> before = vms_.at(record.id);
    co_await before->stop();
    attend(record).start();
}

async::Task<bool> Engine::runs(Uuid id) {
    co_await vm(id).look_now(async::after(settings_.greeting_timeout * 2));
    const Vm& now = vm(id);
    if (now.down()) co_return false;
    (void)now.session();  // throws Unreachable, and why
    now.check_manager(catalog_.vm(id));
    co_await refuse_incoming(id);
    co_return true;
}

async::Task<> Engine::refuse_incoming(Uuid id) {
    if (vm(id).incoming()) co_await vm(id).look_at_state();
    if (vm(id).incoming())
        throw Error(
            ErrorCode::busy,
            "{} waits for the memory that its guest goes on from: nothing can be done to its disks until "
            "that is read",
            catalog_.describe({ObjectKind::vm, id}));
}

async::Task<bool> Engine::ready_to_work(Uuid id) {
    const bool running = co_await runs(id);
    if (!running) co_return false;
    const auto held = locks_.take({{ObjectKind::vm, id}}, "having its disks looked at", Uuid{});
    const bool known = co_await vm(id).disks_are_known();
    if (known) co_return true;
    co_await vm(id).read_disks();
    co_await adopt_disks(id);
    co_return true;
}

void Engine::vm_changed(const Uuid& id) {
    tell({ObjectKind::vm, id}, ChangeKind::changed);
    exports_.vm_changed(id);
    backups_.vm_changed(id);
    if (!vms_.contains(id)) return;
    if (vm(id).state() == VmState::running && catalog_.has({ObjectKind::vm, id}) &&
        catalog_.vm(id).resumes_from)
        spawn(forget_due_memory(*this, id), "forgetting memory that a VM has not gone on from");
    if (!vm(id).down()) return;
    // QEMU writes bitmaps and marks into an image when it closes it, or leaves them wrong when it dies.
    std::vector<Uuid> closed;
    for (const Uuid& disk : catalog_.disks_of_vm(id)) closed.push_back(catalog_.disk(disk).active);
    if (!closed.empty()) spawn(inspect_volumes(std::move(closed)), "looking at images that were closed");
}

async::Task<> Engine::vm_connected(Uuid id) {
    if (!catalog_.has({ObjectKind::vm, id})) co_return;  // being registered: the registration looks itself
    if (locks_.held({ObjectKind::vm, id})) {
        adoption_waits_.insert(id);
        co_return;
    }
    {
        const auto held = locks_.take({{ObjectKind::vm, id}}, "looking at its disks", Uuid{});
        co_await adopt_disks(id);
    }
    co_await see_to_memory(id);
}

/// Where somebody works on one of its disks, it is tried again when nobody works on the VM any more.
async::Task<> Engine::see_to_memory(Uuid id) {
    try {
        co_await storage::see_to_memory(*this, id);
    } catch (const Error& error) {
        log().with("VOLCHAIN_VM", id.str()).notice("its memory is not loaded yet: {}", error.what());
        if (error.code() == ErrorCode::busy) adoption_waits_.insert(id);
    }
}

void Engine::lock_changed(const ObjectId& object) {
    tell(object, ChangeKind::changed);
    if (object.kind != ObjectKind::vm || locks_.held(object) || adoption_waits_.erase(object.id) == 0) return;
    spawn(adopt_when_free(object.id), "looking at the disks of a VM");
}

async::Task<> Engine::adopt_when_free(Uuid id) {
    if (!vms_.contains(id) || !vm(id).live()) co_return;
    co_await vm_connected(id);
}

async::Task<> Engine::adopt_disks(Uuid id) {
    const VmRecord record = catalog_.vm(id);
    try {
        vm(id).check_manager(record);
    } catch (const Error& error) {
        log().with("VOLCHAIN_VM", id.str()).warning("its disks are left alone: {}", error.what());
        co_return;
    }
    if (record.adopt) co_await adopt_new_disks(record);
    for (const auto& [device, why] : unmanaged(id))
        log().with("VOLCHAIN_VM", id.str()).notice("device {} is not managed: {}", quote(device), why);
    tell({ObjectKind::vm, id}, ChangeKind::changed);
}

async::Task<> Engine::adopt_new_disks(VmRecord record) {
    std::vector<Uuid> added;
    std::vector<Uuid> new_pools;
    {
        const auto turn = co_await turn_for_new_pools();
        Adoption adoption = adopt(catalog_, record, vm(record.id).disks());
        for (const VolumeRecord& volume : adoption.volumes) added.push_back(volume.id);
        for (const auto& [pool, path] : adoption.pool_paths)
            if (!pool_status_.contains(pool)) new_pools.push_back(pool);
        if (adoption.changes.empty()) co_return;
        adoption.changes.put(ManifestStale{record.id, true});
        co_await catalog_.commit(std::move(adoption.changes), Durability::power);
    }
    for (const Uuid& pool : new_pools) co_await inspect_pool(pool, true);
    co_await inspect_volumes(std::move(added));
    write_manifests();
}

async::Task<async::Mutex::Guard> Engine::turn_for_new_pools() {
    co_return co_await new_pools_.lock(async::after(new_pools_limit), "making a pool");
}

std::vector<UnmanagedDevice> Engine::unmanaged(const Uuid& id) const {
    return unmanaged_devices(catalog_, id, vm(id).disks());
}

std::optional<Engine::ThawTurn> Engine::begin_thaw(const Uuid& vm) {
    if (!thawing_.insert(vm).second) return std::nullopt;
    return ThawTurn(*this, vm);
}

async::Task<> Engine::pause_thaw(async::Deadline end) {
    try {
        co_await thaws_.wait(end, "the time for another thaw");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
    }
}

async::Task<> Engine::wait_thawed(Uuid vm, async::Deadline deadline) {
    if (thawing_.contains(vm)) thaws_.notify();
    while (thawing_.contains(vm)) co_await thaws_.wait(deadline, "the guest to be thawed");
}

Uuid Engine::pool_at(const std::string& path) const {
    for (const auto& [id, pool] : catalog_.pools())
        if (pool.path == path) return id;
    return Uuid{};
}

async::Workers& Engine::files(const Uuid& pool) {
    return pool_files_.try_emplace(pool, threads_a_pool).first->second;
}

async::Workers& Engine::readers(const Uuid& pool) {
    return pool_readers_.try_emplace(pool, threads_a_pool).first->second;
}

// --- volumes and pools
// -----------------------------------------------------------------------------------------------

async::Task<> Engine::inspect_volume(Uuid id) {
    if (!catalog_.has({ObjectKind::volume, id})) co_return;
    const VolumeRecord& volume = catalog_.volume(id);
    auto work = [pool = catalog_.pool(volume.pool).path, file = volume.file, format = volume.format] {
        return inspect_image(pool, file, format);
    };
    auto again = work;
    async::Workers& files = this->files(volume.pool);
    VolumeFacts facts = co_await files.run(std::move(work));
    // A running VM may just be changing its header; twice in a row would be a strange chance.
    if (facts.state == VolumeState::corrupt) facts = co_await files.run(std::move(again));
    if (catalog_.has({ObjectKind::volume, id})) catalog_.set_facts(id, std::move(facts));
}

async::Task<> Engine::inspect_volumes(std::vector<Uuid> volumes) {
    // One who was stopped before this began has to come as far as drain() all the same.
    co_await async::ignore_cancellation();
    async::TaskGroup group(executor_);
    for (const Uuid& volume : volumes) group.spawn(inspect_volume(volume), "reading the header of a volume");
    co_await group.drain();
}

std::string Engine::broken(const Uuid& disk) const {
    const DiskRecord& record = catalog_.disk(disk);
    for (const Uuid& layer : catalog_.chain(record.active)) {
        const VolumeFacts& facts = catalog_.facts(layer);
        if (facts.state != VolumeState::ok)
            return fmt::format("{} is {}: {}", catalog_.describe({ObjectKind::volume, layer}),
                               word(facts.state), facts.problem);
    }
    const auto running = vms_.find(record.vm);
    if (running == vms_.end()) return {};
    for (const LiveDisk& live : running->second->disks()) {
        const VolumeRecord* volume = catalog_.find_volume(live.active().path);
        if (volume != nullptr && volume->disk == disk && volume->id != record.active)
            return fmt::format("its VM runs on {}", catalog_.describe({ObjectKind::volume, volume->id}));
    }
    return {};
}

PoolStatus Engine::pool_status(const Uuid& pool) const {
    const auto found = pool_status_.find(pool);
    return found == pool_status_.end() ? PoolStatus{} : found->second;
}

async::Task<> Engine::inspect_pool(Uuid pool, bool probe_reflink) {
    if (!catalog_.has({ObjectKind::pool, pool})) co_return;
    auto work = [path = catalog_.pool(pool).path, probe_reflink] {
        return storage::inspect_pool(path, probe_reflink);
    };
    PoolStatus status = co_await files(pool).run(std::move(work));
    if (!catalog_.has({ObjectKind::pool, pool})) co_return;
    PoolStatus& known = pool_status_[pool];
    if (!probe_reflink) status.reflink = known.reflink;
    const bool changed = known.state != status.state || known.filesystem != status.filesystem ||
                         known.reflink != status.reflink || known.capacity != status.capacity;
    known = status;
    if (changed) tell({ObjectKind::pool, pool}, ChangeKind::changed);
    // What could not be seen, and not be written, while it was away; where another file system is mounted over its
    // directory, that shows in the capacity.
    if (changed && status.state != PoolState::missing) co_await inspect_volumes(doubtful_volumes(pool));
    if (changed && status.state == PoolState::ok && !catalog_.stale_manifests().empty()) write_manifests();
}

async::Task<> Engine::watch_pools() {
    while (true) {
        co_await async::sleep_until(async::after(settings_.pool_check_interval));
        for (const Uuid& pool : catalog_.ids(ObjectKind::pool))
            if (!pools_looked_at_.contains(pool)) tasks_.spawn(look_at_pool(pool), "looking at a pool");
    }
}

/// One look at a pool at a time: one that does not answer has no further ones waiting behind the first.
async::Task<> Engine::look_at_pool(Uuid pool) {
    pools_looked_at_.insert(pool);
    const bool was_missing = pool_status(pool).state == PoolState::missing;
    std::exception_ptr failure;
    co_await async::keep_failure(inspect_pool(pool, was_missing), failure);
    pools_looked_at_.erase(pool);
    if (failure) std::rethrow_exception(failure);
}

/// The volumes of a pool in which something was amiss.
std::vector<Uuid> Engine::doubtful_volumes(const Uuid& pool) const {
    std::vector<Uuid> volumes;
    for (const auto& [id, volume] : catalog_.volumes())
        if (volume.pool == pool && catalog_.facts(id).state != VolumeState::ok) volumes.push_back(id);
    return volumes;
}

// --- manifests
// -------------------------------------------------------------------------------------------------------

void Engine::write_manifests() {
    manifests_wanted_ = true;
    manifests_asked_.notify();
}

async::Task<> Engine::write_stale_manifests() {
    while (true) {
        while (!manifests_wanted_) co_await manifests_asked_.wait(async::no_deadline, "a manifest to write");
        manifests_wanted_ = false;
        co_await write_manifests_now();
    }
}

async::Task<> Engine::write_manifests_now() {
    for (const Uuid& vm : catalog_.stale_manifests()) {
        std::exception_ptr failure;
        co_await async::keep_failure(write_manifest_of(vm), failure);
        if (!failure) continue;
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;
        log().with("VOLCHAIN_VM", vm.str()).warning("cannot write its manifests: {}", error.what());
    }
}

async::Task<> Engine::write_manifest_of(Uuid id) {
    // Unmarked first: what changes meanwhile marks it again.
    Changes changes;
    changes.put(ManifestStale{id, false});
    if (!catalog_.has({ObjectKind::vm, id})) {
        co_await catalog_.commit(std::move(changes), Durability::process);
        co_return;
    }
    const Json document = manifest(catalog_, id);
    bool complete = true;
    for (const std::string& pool : manifest_pools(catalog_, id)) {
        auto work = [pool, id, document] { write_manifest(pool, id, document); };
        std::exception_ptr failure;
        co_await async::keep_failure(
            async::with_deadline(files(pool_at(pool)).run(std::move(work)), async::after(manifest_limit),
                                 "the manifest to be written"),
            failure);
        if (!failure) continue;
        complete = false;
        log()
            .with("VOLCHAIN_VM", id.str())
            .warning("cannot write its manifest into {}: {}", quote(pool), to_error(failure).what());
    }
    if (complete && manifest(catalog_, id) == document)
        co_await catalog_.commit(std::move(changes), Durability::process);
}

}  // namespace volchain::storage
