// SPDX-License-Identifier: MIT
#include "storage/vms/quiesce.h"

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

/// An agent that refused to thaw may have nothing frozen: Windows' shadow copies let go by themselves, and where a hook
/// in the guest fails, the file systems are thawed all the same.
async::Task<bool> thawed_nevertheless(Engine& engine, Vm& vm) {
    try {
        const auto status =
            co_await vm.agent()->fsfreeze_status(async::after(engine.settings().thaw_timeout));
        co_return status == qmp::FreezeStatus::thawed;
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        // Which knows no freezing.
        if (error.code() == ErrorCode::unsupported) co_return true;
        log_for(vm.id()).warning("the guest agent does not tell whether something is frozen: {}",
                                 error.what());
    }
    co_return false;
}

/// What came of one thaw.
struct Thaw {
    std::optional<qmp::FreezeAnswer> answer;
    bool refused = false;  ///< by an agent that answers
    bool done = false;     ///< the guest is certainly not frozen any more
    std::string why;       ///< there is no answer
};

async::Task<Thaw> thaw_once(Engine& engine, Vm& vm) {
    Thaw thaw;
    try {
        thaw.answer = co_await vm.agent()->fsfreeze_thaw(async::after(engine.settings().thaw_timeout));
        thaw.done = true;
        vm.note_agent(AgentState::connected);
    } catch (const qmp::AgentError& error) {
        thaw.refused = true;
        thaw.why = error.what();
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        thaw.why = error.what();
        if (vm.agent_state() == AgentState::connected) vm.note_agent(AgentState::unresponsive);
    }
    if (thaw.refused) thaw.done = co_await thawed_nevertheless(engine, vm);
    co_return thaw;
}

/// Why a guest needs no thaw any more; empty where it may.
std::string past_thawing(Engine& engine, Vm& vm, std::uint64_t boot) {
    if (!engine.catalog().has({ObjectKind::vm, vm.id()})) return "the VM is not registered any more";
    if (vm.agent() == nullptr) return "the VM has no guest agent any more";
    if (vm.down()) return "QEMU has ended";
    if (vm.boots() != boot) return "the guest was reset";
    return {};
}

}  // namespace

async::Task<> thaw_until_answered(Engine& engine, Vm& vm, std::uint64_t boot) {
    const auto turn = engine.begin_thaw(vm.id());
    if (!turn) co_return;
    async::Clock::duration pause = first_thaw_pause;
    std::string reason;
    for (bool complained = false;; complained = true) {
        reason = past_thawing(engine, vm, boot);
        if (!reason.empty()) break;
        const Thaw thaw = co_await thaw_once(engine, vm);
        reason = thaw.answer ? fmt::format("thawed {} file system(s)", thaw.answer->file_systems) : thaw.why;
        if (thaw.done) break;
        if (!complained) log_for(vm.id()).warning("cannot thaw the guest yet: {}; trying on", thaw.why);
        co_await engine.pause_thaw(async::after(pause));
        pause = std::min<async::Clock::duration>(2 * pause, last_thaw_pause);
    }
    log_for(vm.id()).notice("the guest is not frozen any more: {}", reason);
    co_await unmark(engine, vm.id());
}

FreezeWindow::FreezeWindow(Engine& engine, Vm& vm) : engine_(engine), vm_(vm), boot_(vm.boots()) {}

FreezeWindow::~FreezeWindow() {
    state_->closed = true;
    state_->changed.notify();
    if (sent_ && !thawed_) vm_.spawn(thaw_until_answered(engine_, vm_, boot_), "thawing the guest");
}

// --- freezing
// --------------------------------------------------------------------------------------------------------

async::Task<> FreezeWindow::open(async::Clock::duration timeout) {
    const bool answers = co_await agent_answers();
    if (!answers) co_return;
    const bool ended = co_await earlier_freeze_ended();
    if (!ended) co_return;
    Changes changes;
    changes.put(Frozen{vm_.id(), now()});
    sent_ = true;  // whatever ends the next lines, the mark is taken away again by a thaw
    co_await engine_.catalog().commit(std::move(changes), Durability::process);
    co_await send_freeze(async::after(timeout));
    if (frozen()) vm_.spawn(limit(engine_, vm_, boot_, state_), "limiting a freeze");
}

async::Task<bool> FreezeWindow::agent_answers() {
    if (vm_.agent() == nullptr) {
        why_ = "the VM was registered without a guest agent";
        co_return false;
    }
    if (vm_.state() != VmState::running) {
        why_ = fmt::format("the VM is {}", word(vm_.state()));
        co_return false;
    }
    const AgentState state = co_await vm_.look_for_agent(async::after(engine_.settings().agent_sync_timeout));
    if (state == AgentState::absent) why_ = "no guest agent runs in the guest";
    if (state == AgentState::unresponsive) why_ = "the guest agent does not answer";
    if (state != AgentState::connected) co_return false;
    try {
        const auto os = co_await vm_.agent()->get_osinfo(async::after(engine_.settings().agent_sync_timeout));
        windows_ = os.windows();
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        // Which system it is only matters for how good the snapshot may be called.
    }
    co_return true;
}

/// A thaw that is still to come for an earlier freeze would end ours.
async::Task<bool> FreezeWindow::earlier_freeze_ended() {
    try {
        co_await engine_.wait_thawed(vm_.id(), async::after(engine_.settings().agent_sync_timeout));
        co_return true;
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        why_ = "the guest has not been thawed yet after an earlier freeze";
    }
    co_return false;
}

async::Task<> FreezeWindow::send_freeze(async::Deadline deadline) {
    try {
        const auto answer = co_await vm_.agent()->fsfreeze_freeze(deadline);
        frozen_count_ = answer.file_systems;
        if (frozen_count_ == 0) {
            why_ = "the guest agent found no file system to freeze";
        } else {
            state_->frozen = true;
            frozen_at_ = answer.times.answered;
        }
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        why_ = fmt::format("freezing failed: {}", error.what());
        if (error.code() == ErrorCode::timeout) vm_.note_agent(AgentState::unresponsive);
    }
}

/// Whatever the owner of the window waits for: after the limit the guest is thawed.
async::Task<> FreezeWindow::limit(Engine& engine, Vm& vm, std::uint64_t boot, std::shared_ptr<State> state) {
    const async::Deadline deadline = async::after(engine.settings().freeze_limit);
    try {
        while (!state->closed) co_await state->changed.wait(deadline, "the end of a freeze");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        state->expired = true;
    }
    if (!state->expired) co_return;
    log_for(vm.id()).warning("the guest was frozen for longer than allowed; it is thawed");
    co_await thaw_until_answered(engine, vm, boot);
}

// --- thawing
// ---------------------------------------------------------------------------------------------------------

async::Task<> FreezeWindow::close() {
    if (!sent_ || state_->closed) co_return;
    // From here on the limit has nothing to do: the thaw is on its way.
    state_->closed = true;
    state_->changed.notify();
    co_await send_thaw();
    if (thawed_) co_await unmark(engine_, vm_.id());
}

async::Task<> FreezeWindow::send_thaw() {
    const bool was_frozen = frozen();
    state_->frozen = false;
    const Thaw thaw = co_await thaw_once(engine_, vm_);
    thawed_ = thaw.done;
    if (!thawed_)
        log_for(vm_.id()).warning("the guest is not thawed yet: {}; the thaw is sent again", thaw.why);
    if (was_frozen) judge(thaw.answer, thaw.why);
}

/// Only a thaw of all that was frozen proves that it was frozen until then.
void FreezeWindow::judge(const std::optional<qmp::FreezeAnswer>& answer, const std::string& why) {
    if (!answer) {
        why_ = fmt::format("whether the guest was frozen until the end is not known: {}", why);
        return;
    }
    times_ = FreezeTimes{frozen_at_, answer->times.sent, answer->times.answered};
    held_ = !state_->expired && answer->file_systems >= frozen_count_;
    if (state_->expired)
        why_ = "the switch took longer than the guest may be frozen; it was thawed meanwhile";
    else if (!held_)
        why_ = fmt::format(
            "the guest had thawed by itself before the snapshot was complete ({} of {} file systems "
            "were still frozen)",
            answer->file_systems, frozen_count_);
    if (answer->file_systems > frozen_count_)
        log_for(vm_.id()).notice(
            "the guest agent has thawed {} file system(s) more than it had frozen: somebody else had",
            answer->file_systems - frozen_count_);
}

}  // namespace volchain::storage
