// SPDX-License-Identifier: MIT
//
// Vm: a registered virtual machine as it is now: its monitor, its guest agent, its state, its disks in QEMU.
// What is remembered of it is its VmRecord; this is what events and queries say. The Vms table owns one for
// each record.
//
// It keeps the connection (qmp::Link) and the state true by events. It decides nothing about records: when
// the disks in QEMU were read anew, its owner is told.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/condition.h"
#include "async/task_group.h"
#include "base/log.h"
#include "qmp/device_state.h"
#include "qmp/guest_agent.h"
#include "qmp/link.h"
#include "storage/records/records.h"
#include "storage/settings.h"
#include "storage/vms/live_disk.h"

namespace volchain::storage {

enum class AgentState { connected, absent, unresponsive };
constexpr auto enum_names(AgentState) {
    return std::to_array<EnumName<AgentState>>({{AgentState::connected, "connected"},
                                                {AgentState::absent, "absent"},
                                                {AgentState::unresponsive, "unresponsive"}});
}

class Vm;

class VmOwner {
  public:
    /// State or agent state are not what they were.
    virtual void vm_changed(const Uuid& vm) = 0;
    /// A session is there and the disks were read: the records can be held against them. Runs in the VM's
    /// tasks.
    virtual async::Task<> vm_connected(Uuid vm) = 0;

  protected:
    ~VmOwner() = default;
};

class Vm final : public std::enable_shared_from_this<Vm>, private qmp::LinkOwner {
  public:
    Vm(const async::Executor& executor, const VmRecord& record, const Settings& settings, VmOwner& owner);
    Vm(const Vm&) = delete;
    Vm& operator=(const Vm&) = delete;
    /// stop() must have been awaited. Who waits for something of it without holding the VM's lock keeps it by a
    /// share of their own until then.
    ~Vm() = default;

    void start();
    async::Task<> stop();
    /// Starts a task that works on this VM and has ended when stop() returns, cancelled if need be.
    void spawn(async::Task<> task, std::string what) noexcept;

    [[nodiscard]] const Uuid& id() const noexcept { return id_; }
    [[nodiscard]] VmState state() const noexcept { return state_; }
    [[nodiscard]] AgentState agent_state() const noexcept { return agent_state_; }
    /// Whether there is a monitor to talk to: the VM is to be worked on in its QEMU.
    [[nodiscard]] bool live() const noexcept { return session_ != nullptr && !session_->closed(); }
    /// Whether, as far as the monitor shows, no QEMU runs: the VM is to be worked on offline.
    [[nodiscard]] bool down() const noexcept {
        return !live() && (state_ == VmState::shutoff || state_ == VmState::crashed);
    }
    /// The monitor. Throws NotRunning where the VM is down, Unreachable where nobody can tell.
    [[nodiscard]] std::shared_ptr<qmp::Session> session() const;
    [[nodiscard]] qmp::GuestAgent* agent() noexcept { return agent_ ? &*agent_ : nullptr; }

    /// Makes sure that the state is the latest: connects now where there is no connection. Returns when
    /// connected and read, or when it is clear that it cannot be.
    async::Task<> look_now(async::Deadline deadline);
    /// Whether QEMU waits for the memory that its guest is to go on from (run state "inmigrate"): its images are not active
    /// yet, and nothing may be done to them. As of the last look_at_state(), or of connecting.
    [[nodiscard]] bool incoming() const noexcept { return live() && incoming_; }
    /// Asks QEMU for its run state again. No event tells that a guest does not run after its memory was read.
    async::Task<> look_at_state();
    /// Reads the disks of the running VM again.
    async::Task<> read_disks();
    /// Reads them again where disks_are_known() cannot tell.
    async::Task<> know_disks();
    /// Whether the VM still has the devices that were read, on the nodes that were read, by a cheap question; the
    /// bitmaps of their active layers are as they are now when this returns true.
    async::Task<bool> disks_are_known();
    /// A new active layer over the one with this file: disks() follows.
    void cover(const std::string& active_path, LiveLayer overlay);
    /// Asks QEMU whether the agent's port is open in the guest, and the agent whether it answers.
    async::Task<AgentState> look_for_agent(async::Deadline deadline);
    void note_agent(AgentState state);
    /// How often the guest was seen to be reset: with another number, nothing is in it that was there before.
    [[nodiscard]] std::uint64_t boots() const noexcept { return boots_; }

    /// The disks as QEMU has them; empty while there is no session.
    [[nodiscard]] const std::vector<LiveDisk>& disks() const noexcept { return disks_; }
    /// The one whose active layer is this file, null where there is none.
    [[nodiscard]] LiveDisk* find_disk(const std::string& active_path);
    /// The one that has this file as one of its layers, null where there is none.
    [[nodiscard]] const LiveDisk* disk_with_layer(const std::string& path) const;

    /// Whether QEMU is run by another manager, that keeps records of its own: "libvirt", or empty.
    [[nodiscard]] const std::string& manager() const noexcept { return manager_; }
    /// Throws Unsupported where that manager is none that `record` puts up with.
    void check_manager(const VmRecord& record) const;

    /// Waits until connected or lost or changed in another way; Timeout at the deadline.
    async::Task<> wait_changed(async::Deadline deadline);

  private:
    async::Task<> on_connected(std::shared_ptr<qmp::Session> session) override;
    void on_event(const qmp::Event& event) override;
    void on_lost(const qmp::LinkLoss& loss) override;
    void on_no_connection(qmp::LinkState state, const std::string& reason) override;

    void throw_if_stopped() const;
    void set_state(VmState state);
    void note_departure(const qmp::Event& event);
    async::Task<> read_state(std::shared_ptr<qmp::Session> session);
    async::Task<> read_chardevs(std::shared_ptr<qmp::Session> session);
    async::Task<> probe_agent();

    Uuid id_;
    const Settings& settings_;
    VmOwner& owner_;
    Logger log_;
    std::optional<qmp::Link> link_;
    std::optional<qmp::GuestAgent> agent_;
    std::shared_ptr<qmp::Session> session_;  ///< set once the state and the disks were read
    VmState state_;
    AgentState agent_state_ = AgentState::absent;
    std::optional<bool> agent_port_open_;  ///< none: QEMU does not tell
    std::string no_session_;               ///< why
    std::uint64_t attempts_ = 0;           ///< to connect, that have come to an end
    std::uint64_t boots_ = 0;
    std::uint64_t state_events_ = 0;
    bool incoming_ = false;
    std::string manager_;
    std::vector<LiveDisk> disks_;
    qmp::DeviceRoots roots_;    ///< of all devices, when disks_ were read
    bool only_client_ = false;  ///< nobody else has a monitor of this QEMU
    bool stopped_ = false;
    async::Condition changed_;
    async::TaskGroup tasks_;
};

}  // namespace volchain::storage
