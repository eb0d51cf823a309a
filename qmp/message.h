// SPDX-License-Identifier: MIT
//
// What QEMU says on a QMP monitor, one message a line (docs/interop/qmp-spec): a greeting, an event, or the
// answer to a command. Reading them is apart from the connection they come over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "async/task.h"
#include "base/json.h"
#include "base/timestamp.h"

namespace volchain::qmp {

/// The first message of a monitor.
struct Greeting {
    std::string version;  ///< "7.2.22"
    std::string package;  ///< "Debian 1:7.2+dfsg-7+deb12u18", often empty
};

struct Event {
    Event(std::string event_name, Json event_data, Timestamp when)
        : name(std::move(event_name)), data(std::move(event_data)), time(when) {}

    /// The data, to read from. Refers to this event.
    [[nodiscard]] JsonReader read() const { return {data, "event " + name, ErrorCode::qemu_failed}; }

    std::string name;  ///< "JOB_STATUS_CHANGE"
    Json data;         ///< an object, empty where the event has none
    Timestamp time;    ///< QEMU's clock
};

/// QEMU's or the guest agent's "error": a class, and words for people.
struct Refusal {
    std::string error_class;
    std::string description;
};

/// The answer to a command: `value`, or a refusal.
struct Reply {
    std::optional<std::uint64_t> id;
    Json value;
    std::optional<Refusal> refusal;
};

using Message = std::variant<Greeting, Event, Reply>;

/// Throws Unreachable where the line is none of them.
[[nodiscard]] Message parse_message(std::string_view line);
/// The member "error" of an answer.
[[nodiscard]] Refusal parse_refusal(const JsonReader& error);

/// When a command's last byte was given to the socket (not: when that had returned), and when its answer was there.
struct CallTimes {
    async::Clock::time_point sent;
    async::Clock::time_point answered;
};

/// QEMU said no. The code follows from the class, and where that is "GenericError" from the words, as far as
/// they are those of errno or of the image locks: CommandNotFound is Unsupported; DeviceNotFound and
/// DeviceNotActive are NotFound; no space is NoSpace; a lock that another process has is InUse; the rest is
/// QemuFailed.
class CommandError : public Error {
  public:
    CommandError(const std::string& command, Refusal refusal, CallTimes times);

    [[nodiscard]] const std::string& error_class() const noexcept { return refusal_.error_class; }
    /// QEMU's words, as they came.
    [[nodiscard]] const std::string& description() const noexcept { return refusal_.description; }
    [[nodiscard]] CallTimes times() const noexcept { return times_; }

  private:
    Refusal refusal_;
    CallTimes times_;
};

/// The code for words of QEMU's that tell of a failed system call or lock; QemuFailed where they do not.
[[nodiscard]] ErrorCode code_of_words(std::string_view words) noexcept;

}  // namespace volchain::qmp
