// SPDX-License-Identifier: MIT
#include "qmp/agent_stream.h"

namespace volchain::qmp {
namespace {

constexpr std::string_view ends{"\n\xff", 2};
constexpr std::size_t kept_buffer = std::size_t{1} << 20;

}  // namespace

void AgentStream::feed(std::string_view bytes) {
    buffer_.erase(0, begin_);
    scanned_ -= begin_;
    begin_ = 0;
    if (buffer_.empty() && buffer_.capacity() > kept_buffer) buffer_ = std::string();
    buffer_ += bytes;
}

std::optional<AgentStream::Line> AgentStream::next() {
    while (true) {
        const std::size_t end = buffer_.find_first_of(ends, scanned_);
        const std::size_t length = (end == std::string::npos ? buffer_.size() : end) - begin_;
        if (length > max_line_) skipping_ = true;
        if (end == std::string::npos) {
            scanned_ = buffer_.size();
            if (skipping_) begin_ = scanned_;
            return std::nullopt;
        }
        Line line{std::string_view(buffer_).substr(begin_, length), delimited_, skipping_};
        const bool whole = buffer_[end] == '\n';
        begin_ = scanned_ = end + 1;
        skipping_ = false;
        // What came before 0xff is half a line at best. What comes after it is what was asked for.
        delimited_ = !whole;
        if (!whole) continue;
        if (line.overlong) line.text = {};
        if (line.text.ends_with('\r')) line.text.remove_suffix(1);
        if (!line.text.empty() || line.overlong) return line;
    }
}

}  // namespace volchain::qmp
