// SPDX-License-Identifier: MIT
//
// GuestAgent: talks to qemu-ga in a guest, over the host's end of its virtio-serial port. It connects when it
// is first needed. One command at a time is under way; others wait their turn. Answers have no names, so
// after a command that was given up, an answer that made no sense, and at the beginning, the stream is
// synchronised first (0xff and guest-sync-delimited): a late answer is never taken for another one.
//
// What a failure means for the guest:
//   AgentUnavailable   the command did not reach the agent (no socket, nobody answers to the
//   synchronisation), or what
//                      came back was of no use. An AgentError with this code: the agent refused
//   Busy               another command was under way all the time; this one was not sent
//   Timeout            the command was sent and not answered; it may still be carried out
//   QuiesceFailed      (AgentError) the agent refused a guest-fsfreeze command; it thaws what it froze by
//   itself then Unsupported        (AgentError) the agent does not know the command, or it is disabled
//
// All that comes from the guest is foreign. It belongs to whoever looks after the VM, and must outlive its
// calls.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "async/mutex.h"
#include "qmp/message.h"
#include "qmp/session.h"

namespace volchain::qmp {

class AgentPort;

/// The agent said no.
class AgentError : public Error {
  public:
    AgentError(const std::string& command, Refusal refusal, CallTimes times);

    [[nodiscard]] const std::string& error_class() const noexcept { return refusal_.error_class; }
    /// The agent's words, as the guest sent them.
    [[nodiscard]] const std::string& description() const noexcept { return refusal_.description; }
    [[nodiscard]] CallTimes times() const noexcept { return times_; }

  private:
    Refusal refusal_;
    CallTimes times_;
};

struct AgentInfo {
    std::string version;
    std::set<std::string> commands;  ///< those that are enabled
};

struct OsInfo {
    std::string id;  ///< "debian", "mswindows"; empty where the guest does not tell
    std::string pretty_name;
    std::string kernel_release;
    /// Whose volume shadow copy service thaws by itself after 10 seconds.
    [[nodiscard]] bool windows() const noexcept { return id == "mswindows"; }
};

enum class FreezeStatus { thawed, frozen };

/// What freeze and thaw answered: how many file systems it concerned, and when.
struct FreezeAnswer {
    std::uint64_t file_systems = 0;
    CallTimes times;
};

class GuestAgent {
  public:
    /// `path`: the socket. `sync_limit`: how long an agent may take to answer to the synchronisation, which
    /// it does at once, unless it is not there.
    explicit GuestAgent(std::string path, async::Clock::duration sync_limit = std::chrono::seconds(5));
    GuestAgent(const GuestAgent&) = delete;
    GuestAgent& operator=(const GuestAgent&) = delete;
    ~GuestAgent();

    [[nodiscard]] const std::string& path() const noexcept { return path_; }

    /// Synchronises, whether it is needed or not: proof that the agent answers.
    async::Task<> sync(async::Deadline deadline);
    /// Any command. `arguments` is an object.
    async::Task<Answer> execute(std::string command, Json arguments, async::Deadline deadline);

    async::Task<> ping(async::Deadline deadline);
    async::Task<AgentInfo> info(async::Deadline deadline);
    async::Task<OsInfo> get_osinfo(async::Deadline deadline);
    async::Task<FreezeStatus> fsfreeze_status(async::Deadline deadline);
    /// Freezes all file systems. After a failure of any kind, and after 0 file systems, thaw: a freeze that
    /// was given up may still happen, and a hook in the guest that saw the freeze waits for the thaw.
    async::Task<FreezeAnswer> fsfreeze_freeze(async::Deadline deadline);
    /// Thaws what is frozen; may be sent again and again.
    async::Task<FreezeAnswer> fsfreeze_thaw(async::Deadline deadline);

    /// Closes the connection, so that another client can have the port. A command under way fails. The next
    /// command connects again.
    void close();

  private:
    [[nodiscard]] async::Task<async::Mutex::Guard> take_turn(async::Deadline deadline);
    [[nodiscard]] async::Task<std::shared_ptr<AgentPort>> prepare(async::Deadline deadline);
    [[nodiscard]] async::Task<> synchronise(std::shared_ptr<AgentPort> port, async::Deadline deadline);
    [[nodiscard]] async::Task<FreezeAnswer> count_of(std::string command, async::Deadline deadline);
    [[nodiscard]] Error unavailable(std::string_view why) const;

    std::string path_;
    async::Clock::duration sync_limit_;
    async::Mutex turn_;
    std::shared_ptr<AgentPort> port_;
    bool in_sync_ = false;
    std::uint64_t next_ticket_ = 1;
};

}  // namespace volchain::qmp
