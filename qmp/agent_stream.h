// SPDX-License-Identifier: MIT
//
// AgentStream: cuts what comes from a guest agent's port into lines. The bytes are the guest's: there may be
// junk, half lines and lines without end between the answers, and it keeps at most one line of the allowed
// length of them. The byte 0xff, which is in no JSON text, starts afresh (guest-sync-delimited in
// qga/qapi-schema.json).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace volchain::qmp {

class AgentStream {
  public:
    explicit AgentStream(std::size_t max_line) : max_line_(max_line) {}

    struct Line {
        std::string_view text;   ///< valid until feed()
        bool delimited = false;  ///< 0xff came right before it
        bool overlong = false;   ///< longer than allowed; the text is dropped
    };

    void feed(std::string_view bytes);
    /// The next whole line; empty ones are left out.
    [[nodiscard]] std::optional<Line> next();
    /// Whether part of a line is there. Call when next() has given all it has.
    [[nodiscard]] bool mid_line() const noexcept {
        return begin_ < buffer_.size() || skipping_ || delimited_;
    }

  private:
    std::size_t max_line_;
    std::string buffer_;
    std::size_t begin_ = 0;
    std::size_t scanned_ = 0;
    bool delimited_ = false;
    bool skipping_ = false;  ///< the rest of an overlong line
};

}  // namespace volchain::qmp
