// SPDX-License-Identifier: MIT
#include "qmp/line_splitter.h"

namespace volchain::qmp {
namespace {

/// A buffer that grew beyond this for one gigantic line is given back after it.
constexpr std::size_t kept_capacity = std::size_t{1} << 20;

}  // namespace

void LineSplitter::feed(std::string_view bytes) {
    if (overlong_) return;
    buffer_.erase(0, begin_);
    scanned_ -= begin_;
    begin_ = 0;
    if (buffer_.empty() && buffer_.capacity() > kept_capacity) buffer_ = std::string();
    buffer_ += bytes;
}

std::optional<std::string_view> LineSplitter::next() {
    if (overlong_) return std::nullopt;
    const std::size_t end = buffer_.find('\n', scanned_);
    const std::size_t length = (end == std::string::npos ? buffer_.size() : end) - begin_;
    if (length > max_line_) {
        overlong_ = true;
        buffer_ = std::string();
        begin_ = scanned_ = 0;
        return std::nullopt;
    }
    if (end == std::string::npos) {
        scanned_ = buffer_.size();
        return std::nullopt;
    }
    std::string_view line = std::string_view(buffer_).substr(begin_, length);
    begin_ = scanned_ = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
}

}  // namespace volchain::qmp
