// SPDX-License-Identifier: MIT
//
// LineSplitter: cuts a stream of bytes into lines, as they come, with a limit to the length of one. It knows
// nothing of what the lines mean.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace volchain::qmp {

class LineSplitter {
  public:
    explicit LineSplitter(std::size_t max_line) : max_line_(max_line) {}

    /// Takes more of the stream. Views that next() gave are gone.
    void feed(std::string_view bytes);

    /// The next whole line without its end ("\n" or "\r\n"), valid until feed().
    [[nodiscard]] std::optional<std::string_view> next();

    /// Whether a line, whole or not, is longer than allowed. Nothing comes out any more then.
    [[nodiscard]] bool overlong() const noexcept { return overlong_; }

  private:
    std::size_t max_line_;
    std::string buffer_;
    std::size_t begin_ = 0;    ///< of the first line not given out
    std::size_t scanned_ = 0;  ///< no line ends between begin_ and here
    bool overlong_ = false;
};

}  // namespace volchain::qmp
