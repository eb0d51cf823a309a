// SPDX-License-Identifier: MIT
#include "storage/vms/vm.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/command_line.h"

namespace volchain::storage {
namespace {

/// RunState (query-status). A QEMU whose guest is over but that has not ended holds its images like a paused
/// one.
VmState state_of(const std::string& run_state) {
    if (run_state == "running") return VmState::running;
    if (run_state == "guest-panicked" || run_state == "internal-error") return VmState::crashed;
    return VmState::paused;
}

/// What an event makes of the state; none for events that leave it.
std::optional<VmState> state_after(const std::string& event, VmState before) {
    if (event == "RESUME" || event == "WAKEUP") return VmState::running;
    // QEMU stops a guest that has panicked, and says so after GUEST_PANICKED.
    if (event == "STOP" && before == VmState::crashed) return std::nullopt;
    if (event == "STOP" || event == "SUSPEND") return VmState::paused;
    if (event == "GUEST_PANICKED") return VmState::crashed;
    return std::nullopt;
}

qmp::Link::Pace pace_of(const Settings& settings) {
    qmp::Link::Pace pace;
    pace.greeting = settings.greeting_timeout;
    return pace;
}

}  // namespace

Vm::Vm(const async::Executor& executor, const VmRecord& record, const Settings& settings, VmOwner& owner)
    : id_(record.id),
      settings_(settings),
      owner_(owner),
      // Nobody knows before the first attempt to connect.
      state_(record.qmp_socket.empty() ? VmState::shutoff : VmState::unreachable),
      tasks_(executor) {
    log_ = volchain::log().with("VOLCHAIN_VM", id_.str());
    if (!record.qmp_socket.empty())
        link_.emplace(executor, record.qmp_socket, static_cast<qmp::LinkOwner&>(*this), pace_of(settings));
    if (!record.agent_socket.empty()) agent_.emplace(record.agent_socket, settings.agent_sync_timeout);
    if (link_)
        no_session_ = "no attempt to connect was made yet";
    else
        no_session_ = "it was registered without a QMP socket";
}

void Vm::start() {
    if (link_) link_->start();
}

async::Task<> Vm::stop() {
    co_await async::ignore_cancellation();
    stopped_ = true;
    no_session_ = "it is not looked after any more";
    changed_.notify();
    if (link_) co_await link_->stop();
    session_.reset();
    co_await tasks_.stop();
    if (agent_) agent_->close();
}

void Vm::spawn(async::Task<> task, std::string what) noexcept {
    try {
        tasks_.spawn(std::move(task), std::move(what));
    } catch (const std::exception& error) {
        log_.notice("{}", error.what());  // stopping; what is left to do is on disk
    }
}

std::shared_ptr<qmp::Session> Vm::session() const {
    if (live()) return session_;
    if (down()) throw Error(ErrorCode::not_running, "the VM is not running");
    throw Error(ErrorCode::unreachable, "the VM's QEMU cannot be reached: {}", no_session_);
}

LiveDisk* Vm::find_disk(const std::string& active_path) {
    const auto found = std::find_if(disks_.begin(), disks_.end(),
                                    [&](const LiveDisk& disk) { return disk.active().path == active_path; });
    return found == disks_.end() ? nullptr : &*found;
}

// --- the connection
// --------------------------------------------------------------------------------------------------

void Vm::throw_if_stopped() const {
    if (stopped_)
        throw Error(ErrorCode::busy, "VM {} was unregistered meanwhile, or is given other sockets",
                    id_.str());
}

async::Task<> Vm::look_now(async::Deadline deadline) {
    const std::shared_ptr<const Vm> kept = shared_from_this();
    throw_if_stopped();
    if (!link_ || live()) co_return;
    const std::uint64_t before = attempts_;
    link_->poke();
    while (!live() && attempts_ == before) {
        co_await changed_.wait(deadline, "the answer of the VM's monitor");
        throw_if_stopped();
    }
}

async::Task<> Vm::wait_changed(async::Deadline deadline) {
    const std::shared_ptr<const Vm> kept = shared_from_this();
    throw_if_stopped();
    co_await changed_.wait(deadline, "a change of the VM");
    throw_if_stopped();
}

void Vm::check_manager(const VmRecord& record) const {
    if (manager_.empty() || record.foreign_manager) return;
    throw Error(
        ErrorCode::unsupported,
        "VM {} is run by {}, which would not know of new overlays and could not start the VM with them; "
        "register it with foreign-manager=true if you see to that",
        quote(record.name), manager_);
}

async::Task<> Vm::on_connected(std::shared_ptr<qmp::Session> session) {
    co_await read_chardevs(session);
    co_await read_state(session);
    only_client_ = session->peer() && qmp::one_qmp_monitor(qmp::command_line_of(session->peer()->pid()));
    // Before the disks: what comes in between shows as a difference.
    roots_ = co_await qmp::read_device_roots(session, async::after(settings_.command_timeout));
    disks_ = co_await read_live_disks(session, settings_);
    session_ = session;
    ++attempts_;
    changed_.notify();
    log_.info("connected to QEMU {} (pid {}), {}", session->greeting().version,
              session->peer() ? session->peer()->pid() : 0, word(state_));
    if (agent_) tasks_.spawn(probe_agent(), "looking for the guest agent");
    co_await owner_.vm_connected(id_);
}

async::Task<> Vm::read_state(std::shared_ptr<qmp::Session> session) {
    const std::uint64_t events = state_events_;
    const Json status =
        co_await session->execute("query-status", Json::object(), async::after(settings_.command_timeout));
    if (state_events_ != events) co_return;  // what they said is at least as new
    const std::string run_state =
        JsonReader(status, "query-status", ErrorCode::qemu_failed).at("status").string();
    incoming_ = run_state == "inmigrate";
    set_state(state_of(run_state));
}

async::Task<> Vm::look_at_state() {
    co_await read_state(session());
}

async::Task<> Vm::read_disks() {
    const std::shared_ptr<qmp::Session> from = session();
    auto roots = co_await qmp::read_device_roots(from, async::after(settings_.command_timeout));
    auto disks = co_await read_live_disks(from, settings_);
    if (session_ != from) co_return;
    roots_ = std::move(roots);
    disks_ = std::move(disks);
}

async::Task<> Vm::know_disks() {
    const bool known = co_await disks_are_known();
    if (!known) co_await read_disks();
}

async::Task<bool> Vm::disks_are_known() {
    const std::shared_ptr<qmp::Session> from = session();
    const async::Deadline deadline = async::after(settings_.command_timeout);
    const qmp::DeviceRoots roots = co_await qmp::read_device_roots(from, deadline);
    if (session_ != from || roots != roots_) co_return false;
    if (only_client_) co_return true;
    const qmp::RootBitmaps bitmaps = co_await qmp::read_root_bitmaps(from, deadline);
    if (session_ != from) co_return false;
    for (LiveDisk& disk : disks_) {
        const auto found = bitmaps.find(disk.active().node);
        if (found == bitmaps.end()) co_return false;  // beneath a filter, where this question does not reach
        disk.active().bitmaps = found->second;
    }
    co_return true;
}

void Vm::cover(const std::string& active_path, LiveLayer overlay) {
    LiveDisk* const disk = find_disk(active_path);
    if (disk == nullptr) return;
    for (auto& [device, root] : roots_)
        if (root == disk->active().node) root = overlay.node;
    disk->layers.insert(disk->layers.begin(), std::move(overlay));
}

const LiveDisk* Vm::disk_with_layer(const std::string& path) const {
    const auto found =
        std::find_if(disks_.begin(), disks_.end(), [&](const LiveDisk& disk) { return disk.layer(path); });
    return found == disks_.end() ? nullptr : &*found;
}

void Vm::on_event(const qmp::Event& event) {
    if (const auto state = state_after(event.name, state_)) {
        ++state_events_;
        incoming_ = false;
        set_state(*state);
    } else if (event.name == "VSERPORT_CHANGE") {
        if (agent_ && live()) tasks_.spawn(probe_agent(), "looking for the guest agent");
    } else if (event.name == "DEVICE_DELETED") {
        note_departure(event);
    } else if (event.name == "RESET") {
        ++boots_;
    } else if (event.name == "BLOCK_IO_ERROR") {
        log_.warning("the guest met an I/O error: {}", clipped(event.data.dump()));
    }
}

/// A guest may let go of a disk long after it was asked to, whoever asked.
void Vm::note_departure(const qmp::Event& event) {
    const std::string id = event.read().string_or("device", "");
    const std::string path = event.read().string_or("path", "");
    const auto left =
        std::erase_if(disks_, [&](const LiveDisk& disk) { return disk.device == id || disk.device == path; });
    if (left == 0) return;
    log_.info("the guest has let go of device {}", quote(id.empty() ? path : id));
    owner_.vm_changed(id_);
}

void Vm::on_lost(const qmp::LinkLoss& loss) {
    session_.reset();
    incoming_ = false;
    disks_.clear();
    roots_.clear();
    no_session_ = loss.reason;
    ++attempts_;
    if (!loss.peer_exited) {
        log_.warning("lost the connection to QEMU: {}", loss.reason);
        set_state(VmState::unreachable);
    } else if (loss.shutdown_reason) {
        log_.info("QEMU ended ({})", *loss.shutdown_reason);
        set_state(VmState::shutoff);
    } else {
        log_.warning("QEMU ended without a shutdown");
        set_state(VmState::crashed);
    }
    if (agent_) agent_->close();
    agent_port_open_.reset();
    note_agent(AgentState::absent);
    changed_.notify();
}

void Vm::on_no_connection(qmp::LinkState state, const std::string& reason) {
    ++attempts_;
    no_session_ = reason;
    // A crash is remembered until the VM is started again.
    if (state != qmp::LinkState::nobody_listens)
        set_state(VmState::unreachable);
    else if (state_ != VmState::crashed)
        set_state(VmState::shutoff);
    changed_.notify();
}

void Vm::set_state(VmState state) {
    if (state_ == state) return;
    log_.debug("{} -> {}", word(state_), word(state));
    state_ = state;
    changed_.notify();
    owner_.vm_changed(id_);
}

// --- the guest agent
// -------------------------------------------------------------------------------------------------

async::Task<> Vm::read_chardevs(std::shared_ptr<qmp::Session> session) {
    const Json answer =
        co_await session->execute("query-chardev", Json::object(), async::after(settings_.command_timeout));
    manager_.clear();
    agent_port_open_.reset();
    for (const JsonReader& device : JsonReader(answer, "query-chardev", ErrorCode::qemu_failed).elements()) {
        // libvirt's own monitor, under the name that it has had since libvirt 0.8
        if (device.at("label").string() == "charmonitor") manager_ = "libvirt";
        const std::string& name = device.at("filename").string();  // "unix:/path,server=on"
        if (agent_ && (name.find("unix:" + agent_->path() + ",") != std::string::npos ||
                       name.ends_with("unix:" + agent_->path())))
            agent_port_open_ = device.at("frontend-open").boolean();
    }
}

async::Task<AgentState> Vm::look_for_agent(async::Deadline deadline) {
    if (!agent_ || !live()) co_return AgentState::absent;
    const std::shared_ptr<qmp::Session> from = session();
    co_await read_chardevs(from);
    if (agent_port_open_ == false) {
        note_agent(AgentState::absent);
        co_return AgentState::absent;
    }
    AgentState found = AgentState::connected;
    try {
        co_await agent_->sync(std::min(deadline, async::after(settings_.agent_sync_timeout)));
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        log_.debug("the guest agent does not answer: {}", error.what());
        // Where QEMU cannot tell whether the guest has the port open, silence most likely means that it has
        // not.
        found = agent_port_open_ ? AgentState::unresponsive : AgentState::absent;
    }
    note_agent(found);
    co_return found;
}

async::Task<> Vm::probe_agent() {
    (void)co_await look_for_agent(async::after(settings_.agent_sync_timeout));
}

void Vm::note_agent(AgentState state) {
    if (agent_state_ == state) return;
    log_.debug("guest agent {} -> {}", word(agent_state_), word(state));
    agent_state_ = state;
    owner_.vm_changed(id_);
}

}  // namespace volchain::storage
