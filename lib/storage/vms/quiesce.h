// SPDX-License-Identifier: MIT
//
// Quiesce: a window in which a guest's file systems are frozen, as short as can be and never left open.
//
//     FreezeWindow window(engine, engine.vm(id));
//     co_await window.open(timeout);      // frozen, or says why not
//     ... one QMP command ...
//     co_await window.close();            // thawed; says whether the window held
//
// "May be frozen" is on disk before the freeze is sent. The guest is thawed whatever happens: by close(), by
// a limit of time, by a task in the background when the window goes without close() or an answer did not
// come, and by a restarted daemon before it does anything else with that VM. A thaw is sent until it is
// answered or the guest is gone.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

enum class QuiesceMode { automatic, require, off };
constexpr auto enum_names(QuiesceMode) {
    return std::to_array<EnumName<QuiesceMode>>(
        {{QuiesceMode::automatic, "auto"}, {QuiesceMode::require, "require"}, {QuiesceMode::off, "off"}});
}

/// When things happened around a frozen window; the bench holds them against what the sockets saw.
struct FreezeTimes {
    async::Clock::time_point frozen;  ///< the freeze's answer was there
    async::Clock::time_point thaw_sent;
    async::Clock::time_point thawed;  ///< the thaw's answer was there
};

class FreezeWindow {
  public:
    /// The VM's lock is held as long as it is there.
    FreezeWindow(Engine& engine, Vm& vm);
    FreezeWindow(const FreezeWindow&) = delete;
    FreezeWindow& operator=(const FreezeWindow&) = delete;
    ~FreezeWindow();

    /// Freezes. Whether something is frozen is in frozen(), and why not in why(). Throws only what has
    /// nothing to do with the guest (the state directory cannot be written, the task was stopped).
    async::Task<> open(async::Clock::duration timeout);
    /// Thaws. Returns when the thaw was answered, or when waiting for that goes on in the background.
    async::Task<> close();

    [[nodiscard]] bool frozen() const noexcept { return state_->frozen; }
    /// After close(): all that was frozen stayed so from open() to close(), as the guest's answer to the thaw
    /// shows.
    [[nodiscard]] bool held() const noexcept { return held_; }
    [[nodiscard]] const std::string& why() const noexcept { return why_; }
    /// Whether the guest is one whose freeze flushes applications too (Windows VSS).
    [[nodiscard]] bool flushes_applications() const noexcept { return windows_; }
    /// After close(), where both were answered.
    [[nodiscard]] const std::optional<FreezeTimes>& times() const noexcept { return times_; }

  private:
    /// Shared with the task that watches over the limit.
    struct State {
        bool frozen = false;
        bool closed = false;
        bool expired = false;
        async::Condition changed;
    };

    async::Task<bool> agent_answers();
    async::Task<bool> earlier_freeze_ended();
    async::Task<> send_freeze(async::Deadline deadline);
    async::Task<> send_thaw();
    void judge(const std::optional<qmp::FreezeAnswer>& answer, const std::string& why);
    static async::Task<> limit(Engine& engine, Vm& vm, std::uint64_t boot, std::shared_ptr<State> state);

    Engine& engine_;
    Vm& vm_;
    std::uint64_t boot_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
    bool sent_ = false;    ///< a freeze may have reached the guest
    bool thawed_ = false;  ///< and a thaw was answered since
    bool held_ = false;
    bool windows_ = false;
    std::uint64_t frozen_count_ = 0;
    async::Clock::time_point frozen_at_{};
    std::string why_;
    std::optional<FreezeTimes> times_;
};

/// Sends thaws until one is answered or the guest is gone; then the mark "may be frozen" is removed. One such task for
/// a VM at a time is enough: a second one ends at once. `boot`: vm.boots() before the freeze. It is a task of the VM,
/// which it does not outlive.
async::Task<> thaw_until_answered(Engine& engine, Vm& vm, std::uint64_t boot);

}  // namespace volchain::storage
