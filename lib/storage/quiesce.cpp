// SPDX-License-Identifier: MIT
#include "storage/quiesce.h"

#include "base/text.h"

namespace volchain::storage {
namespace {

constexpr auto first_thaw_pause = std::chrono::milliseconds(500);
constexpr auto last_thaw_pause = std::chrono::seconds(10);

Logger log_for(const Uuid& vm) {
    return log().with("VOLCHAIN_VM", vm.str());
}

async::Task<> unmark(Engine& engine, Uuid vm) {
    Changes changes;
    changes.put(Frozen{vm, std::nullopt});
    co_await engine.catalog().commit(std::move(changes), Durability::process);
}

/// One thaw. True when the guest is certainly not frozen any more: it answered, or is gone.
async::Task<bool> thaw_once(Engine& engine, Uuid vm) {
    if (!engine.catalog().has({ObjectKind::vm, vm})) co_return true;
    qmp::GuestAgent* const agent = engine.vm(vm).agent();
    if (agent == nullptr || engine.vm(vm).down()) co_return true;
    try {
        const auto answer = co_await agent->fsfreeze_thaw(async::after(engine.settings().thaw_timeout));
        log_for(vm).notice("thawed {} file system(s)", answer.file_systems);
        co_return true;
    } catch (const qmp::AgentError& error) {
        // An agent that refuses has nothing frozen (Windows says so when VSS has let go by itself).
        log_for(vm).notice("the guest agent has nothing to thaw: {}", error.what());
        co_return true;
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        log_for(vm).warning("cannot thaw the guest yet: {}", error.what());
    }
    co_return false;
}

}  // namespace

async::Task<> thaw_until_answered(Engine& engine, Uuid vm) {
    const auto turn = engine.begin_thaw(vm);
    if (!turn) co_return;
    async::Clock::duration pause = first_thaw_pause;
    while (true) {
        const bool done = co_await thaw_once(engine, vm);
        if (done) break;
        co_await async::sleep_until(async::after(pause));
        pause = std::min<async::Clock::duration>(2 * pause, last_thaw_pause);
    }
    co_await unmark(engine, vm);
}

FreezeWindow::FreezeWindow(Engine& engine, const Uuid& vm) : engine_(engine), vm_(vm) {}

FreezeWindow::~FreezeWindow() {
    state_->closed = true;
    state_->changed.notify();
    if (sent_ && !thawed_) engine_.spawn(thaw_until_answered(engine_, vm_), "thawing a guest");
}

// --- freezing
// --------------------------------------------------------------------------------------------------------

async::Task<> FreezeWindow::open(async::Clock::duration timeout) {
    const async::Deadline deadline = async::after(timeout);
    const bool answers = co_await agent_answers();
    if (!answers) co_return;
    Changes changes;
    changes.put(Frozen{vm_, now()});
    co_await engine_.catalog().commit(std::move(changes), Durability::process);
    sent_ = true;
    co_await send_freeze(deadline);
    if (frozen()) engine_.spawn(limit(engine_, vm_, state_), "limiting a freeze");
}

async::Task<bool> FreezeWindow::agent_answers() {
    Vm& vm = engine_.vm(vm_);
    if (vm.agent() == nullptr) {
        why_ = "the VM was registered without a guest agent";
        co_return false;
    }
    if (vm.state() != VmState::running) {
        why_ = fmt::format("the VM is {}", word(vm.state()));
        co_return false;
    }
    const AgentState state = co_await vm.look_for_agent(async::after(engine_.settings().agent_sync_timeout));
    if (state == AgentState::absent) why_ = "no guest agent runs in the guest";
    if (state == AgentState::unresponsive) why_ = "the guest agent does not answer";
    if (state != AgentState::connected) co_return false;
    try {
        const auto os = co_await vm.agent()->get_osinfo(async::after(engine_.settings().agent_sync_timeout));
        windows_ = os.windows();
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        // Which system it is only matters for how good the snapshot may be called.
    }
    co_return true;
}

async::Task<> FreezeWindow::send_freeze(async::Deadline deadline) {
    try {
        const auto answer = co_await engine_.vm(vm_).agent()->fsfreeze_freeze(deadline);
        if (answer.file_systems == 0) {
            why_ = "the guest agent found no file system to freeze";
        } else {
            state_->frozen = true;
            times_.emplace();
            times_->frozen = answer.times.answered;
        }
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        why_ = fmt::format("freezing failed: {}", error.what());
        if (error.code() == ErrorCode::timeout) engine_.vm(vm_).note_agent(AgentState::unresponsive);
    }
}

/// Whatever the owner of the window waits for: after the limit the guest is thawed.
async::Task<> FreezeWindow::limit(Engine& engine, Uuid vm, std::shared_ptr<State> state) {
    const async::Deadline deadline = async::after(engine.settings().freeze_limit);
    try {
        while (!state->closed) co_await state->changed.wait(deadline, "the end of a freeze");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        state->expired = true;
    }
    if (!state->expired) co_return;
    log_for(vm).warning("the guest was frozen for longer than allowed; it is thawed");
    co_await thaw_until_answered(engine, vm);
}

// --- thawing
// ---------------------------------------------------------------------------------------------------------

async::Task<> FreezeWindow::close() {
    if (!sent_ || state_->closed) co_return;
    // From here on the limit has nothing to do: the thaw is on its way.
    state_->closed = true;
    state_->changed.notify();
    co_await send_thaw();
    if (thawed_) co_await unmark(engine_, vm_);
}

async::Task<> FreezeWindow::send_thaw() {
    const bool was_frozen = frozen();
    state_->frozen = false;
    try {
        const auto answer =
            co_await engine_.vm(vm_).agent()->fsfreeze_thaw(async::after(engine_.settings().thaw_timeout));
        thawed_ = true;
        if (times_) {
            times_->thaw_sent = answer.times.sent;
            times_->thawed = answer.times.answered;
        }
        held_ = was_frozen && !state_->expired && answer.file_systems > 0;
        if (was_frozen && !held_) why_ = "the guest had thawed by itself before the snapshot was complete";
    } catch (const qmp::AgentError& error) {
        thawed_ = true;
        if (was_frozen)
            why_ = fmt::format("the guest had thawed by itself before the snapshot was complete ({})",
                               error.what());
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        if (was_frozen)
            why_ = fmt::format("whether the guest was still frozen is not known: {}", error.what());
        log_for(vm_).warning("the guest does not answer to the thaw: {}; it is sent again", error.what());
    }
}

}  // namespace volchain::storage
