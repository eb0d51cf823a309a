// SPDX-License-Identifier: MIT
#include "storage/memory/load_memory.h"

#include <unistd.h>

#include <algorithm>

#include "base/text.h"
#include "qmp/command_line.h"
#include "qmp/migration.h"
#include "storage/memory/memory_file.h"
#include "storage/memory/resume_state.h"
#include "storage/records/preview_state.h"

namespace volchain::storage {
namespace {

constexpr auto load_look_interval = std::chrono::milliseconds(250);
/// Nothing was read for so long: the storage hangs.
constexpr auto load_stall_limit = std::chrono::minutes(2);
/// The same where a restarted daemon does not see how far QEMU is.
constexpr auto blind_limit = std::chrono::hours(1);

class LoadMemory {
  public:
    LoadMemory(Engine& engine, JobPtr job) : engine_(engine), job_(std::move(job)) {
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        snapshot_ = id_in(plan.at("snapshot"));
        vm_ = job_->record().subject.id;
    }

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (failure) co_await fail(to_error(failure));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        std::exception_ptr failure;
        co_await async::keep_failure(go_on(), failure);
        if (failure) co_await fail(to_error(failure));
    }

  private:
    [[nodiscard]] Vm& vm() const { return engine_.vm(vm_); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    async::Task<> forward() {
        co_await job_->step("check");
        const std::string why = co_await why_memory_is_void(engine_, vm_);
        if (!why.empty())
            throw Error(
                ErrorCode::unsupported,
                "its memory does not go together with its disks any more: {}; end this QEMU and start the "
                "VM with what LaunchArguments says now",
                why);
        co_await job_->step("load");
        job_->no_return();
        co_await load();
        co_await start();
    }

    /// From wherever QEMU is.
    async::Task<> go_on() {
        co_await until_reachable();
        if (!vm().live()) throw Error(ErrorCode::interrupted, "QEMU has ended while the daemon did not run");
        const bool used_up = engine_.catalog().vm(vm_).resumes_from != snapshot_;
        if (used_up) co_return co_await let_run();
        co_await vm().look_at_state();
        if (!vm().incoming()) {
            // It may be another QEMU, started since: one that has read nothing.
            qmp::Migration migration(vm().session());
            const qmp::MigrationInfo info = co_await migration.query(soon());
            if (info.status != "completed")
                throw Error(ErrorCode::interrupted, "the VM was started anew while the daemon did not run");
            co_return co_await start();
        }
        qmp::Migration migration(vm().session());
        const qmp::MigrationInfo info = co_await migration.query(soon());
        if (info.status.empty()) co_return co_await forward();
        job_->no_return();
        co_await until_read(migration, -1, 0);
        co_await start();
    }

    async::Task<> until_reachable() {
        while (true) {
            std::exception_ptr failure;
            co_await async::keep_failure(vm().look_now(async::after(engine_.settings().greeting_timeout * 2)),
                                         failure);
            if (vm().live() || vm().down()) co_return;
            if (failure && to_error(failure).code() == ErrorCode::cancelled) std::rethrow_exception(failure);
            co_await async::sleep_until(async::after(load_look_interval));
        }
    }

    async::Task<> load() {
        const SnapshotFile memory = *memory_of(engine_.catalog().snapshot(snapshot_));
        auto open = [pool = engine_.catalog().pool(memory.pool).path, file = memory.file] {
            return open_memory(pool, file);
        };
        MemoryStream stream = co_await engine_.files().run(std::move(open));
        // It shares its position with QEMU's: that is how far QEMU is.
        const UniqueFd shared(::dup(stream.fd.get()));
        if (!shared) throw system_error(errno, "cannot follow the reading of the memory");
        const std::shared_ptr<qmp::Session> session = vm().session();
        qmp::Capabilities wanted;
        wanted["events"] = true;
        co_await qmp::set_capabilities(session, std::move(wanted), soon());
        qmp::Migration migration(session);
        co_await migration.pass(std::move(stream.fd), soon());
        co_await migration.start_incoming(soon());
        co_await until_read(migration, shared.get(), stream.bytes);
        co_await migration.take_back(soon());
    }

    /// QEMU ends where it cannot read it, and says why to whoever has started it.
    async::Task<> until_read(qmp::Migration& migration, int shared, std::uint64_t bytes) {
        const off_t begin = shared < 0 ? 0 : ::lseek(shared, 0, SEEK_CUR);
        off_t before = -1;
        async::Clock::time_point moved = async::Clock::now();
        while (true) {
            const qmp::MigrationInfo info = co_await migration.query(soon());
            if (info.status == "completed") co_return;
            if (!info.under_way() && !info.status.empty())
                throw Error(ErrorCode::qemu_failed, "QEMU could not read the memory: {}", info.error);
            const off_t position = shared < 0 ? 0 : ::lseek(shared, 0, SEEK_CUR);
            if (bytes != 0) job_->progress(static_cast<std::uint64_t>(position - begin), bytes);
            if (position != before) moved = async::Clock::now();
            before = position;
            const async::Clock::duration limit = shared < 0 ? blind_limit : load_stall_limit;
            if (async::Clock::now() > moved + limit)
                throw Error(ErrorCode::timeout,
                            "QEMU reads nothing of the memory any more: its storage hangs");
            co_await migration.wait(async::after(load_look_interval));
        }
    }

    /// From here on the memory is used up.
    async::Task<> start() {
        job_->pass("loaded");
        co_await vm().look_at_state();  // a QEMU that has ended meanwhile has used nothing up
        Changes changes;
        VmRecord record = engine_.catalog().vm(vm_);
        record.resumes_from = Uuid{};
        changes.put(std::move(record)).put(ManifestStale{vm_, true});
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        co_await job_->undo_step("start");
        co_await let_run();
    }

    async::Task<> let_run() {
        const std::shared_ptr<qmp::Session> session = vm().session();
        co_await vm().look_at_state();
        const bool ran = engine_.catalog().snapshot(snapshot_).vm_state == VmState::running;
        Json result;
        result["snapshot"] = object_json({ObjectKind::snapshot, snapshot_});
        result["resumed"] = ran && !manager_starts(session);
        if (result["resumed"].get<bool>() && vm().state() != VmState::running)
            (void)co_await session->execute("cont", Json::object(), soon());
        job_->log().notice("the VM goes on from the memory of {}",
                           engine_.catalog().describe({ObjectKind::snapshot, snapshot_}));
        co_await job_->succeed(Changes{}, std::move(result));
        engine_.write_manifests();
    }

    /// "-S": whoever has started it says when its guest runs.
    [[nodiscard]] static bool manager_starts(const std::shared_ptr<qmp::Session>& session) {
        if (!session->peer()) return false;
        const std::vector<std::string> arguments = qmp::command_line_of(session->peer()->pid());
        return std::find(arguments.begin(), arguments.end(), "-S") != arguments.end();
    }

    async::Task<> fail(Error reason) {
        const bool due = engine_.catalog().vm(vm_).resumes_from == snapshot_;
        const bool ended = reason.code() == ErrorCode::unreachable || reason.code() == ErrorCode::not_running;
        std::string text = reason.what();
        if (ended && due)
            text = fmt::format(
                "QEMU has ended while it was to read the memory ({}); it says why in its own log: most "
                "likely it is another machine than at the snapshot, in its model, devices or memory. "
                "Nothing is changed: start it again as it was then, or without the memory",
                text);
        co_await job_->fail(Changes{}, Error(reason.code(), text));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid vm_;
    Uuid snapshot_;
};

async::Task<> run_load_memory(Engine& engine, JobPtr job) {
    LoadMemory operation(engine, std::move(job));
    co_await operation.run();
}

async::Task<> start_loading(Engine& engine, Uuid vm, Uuid snapshot) {
    JobRequest request("load-memory", {ObjectKind::vm, vm}, ::geteuid());
    request.locks = vm_with_disks(engine.catalog(), vm);
    request.plan["snapshot"] = snapshot.str();
    request.plan["locked"] = plan_of_locks(request.locks);
    Operation operation = [&engine](JobPtr job) { return run_load_memory(engine, std::move(job)); };
    (void)co_await engine.jobs().start(std::move(request), std::move(operation));
}

async::Task<> forget_with_lock(Engine& engine, Uuid vm) {
    VmRecord record = engine.catalog().vm(vm);
    record.resumes_from = Uuid{};
    Changes changes;
    changes.put(std::move(record)).put(ManifestStale{vm, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

}  // namespace

async::Task<> see_to_memory(Engine& engine, Uuid vm) {
    const Catalog& catalog = engine.catalog();
    if (!catalog.has({ObjectKind::vm, vm})) co_return;
    const SnapshotRecord* const due = due_memory(catalog, vm);
    const bool incoming = engine.vm(vm).incoming();
    if (incoming && due == nullptr)
        log()
            .with("VOLCHAIN_VM", vm.str())
            .warning(
                "{} waits for memory, but none is due to it: end its QEMU, and start it with what "
                "LaunchArguments says",
                catalog.describe({ObjectKind::vm, vm}));
    if (due == nullptr) co_return;
    if (incoming)
        co_await start_loading(engine, vm, due->id);
    else if (engine.vm(vm).state() == VmState::running)
        co_await forget_due_memory(engine, vm);
}

async::Task<> forget_due_memory(Engine& engine, Uuid vm) {
    if (!engine.catalog().has({ObjectKind::vm, vm}) || engine.catalog().vm(vm).resumes_from.nil() ||
        engine.locks().held({ObjectKind::vm, vm}))
        co_return;
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "being changed", Uuid{});
    log()
        .with("VOLCHAIN_VM", vm.str())
        .notice("{} runs without the memory that it was to go on from: that is not loaded any more",
                engine.catalog().describe({ObjectKind::vm, vm}));
    co_await forget_with_lock(engine, vm);
}

async::Task<> discard_due_memory(Engine& engine, Uuid vm) {
    if (due_memory(engine.catalog(), vm) == nullptr)
        throw Error(ErrorCode::invalid_argument, "{} is not to go on from any memory",
                    engine.catalog().describe({ObjectKind::vm, vm}));
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "being changed", Uuid{});
    co_await forget_with_lock(engine, vm);
}

async::Task<> recover_load_memory(Engine& engine, JobPtr job) {
    LoadMemory operation(engine, std::move(job));
    co_await operation.recover();
}

}  // namespace volchain::storage
