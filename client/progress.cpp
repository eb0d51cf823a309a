// SPDX-License-Identifier: MIT
#include "client/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "client/units.h"

namespace volchain::client {
namespace {

constexpr std::size_t widest_bar = 40;
constexpr std::size_t narrowest_bar = 10;
/// Earlier, a rate says nothing.
constexpr std::chrono::milliseconds rate_after{500};

std::string bar(double part, std::size_t width) {
    const std::size_t inside = width - 2;
    const auto filled = static_cast<std::size_t>(part * static_cast<double>(inside));
    std::string text(filled, '=');
    if (filled < inside) text += '>';
    text.resize(inside, ' ');
    return fmt::format("[{}]", text);
}

void put(const std::string& text) {
    (void)std::fputs(text.c_str(), stderr);
    (void)std::fflush(stderr);
}

}  // namespace

std::string progress_line(const JobStatus& status, std::uint64_t bytes_per_second, std::size_t columns) {
    std::string line = fmt::format("{}{}{}", status.kind, status.step.empty() ? "" : ": ", status.step);
    if (status.total > 0) {
        const double part =
            std::min(1.0, static_cast<double>(status.done) / static_cast<double>(status.total));
        std::string figures = fmt::format("{:3.0f}%  {} of {}", part * 100, format_size(status.done),
                                          format_size(status.total));
        if (bytes_per_second > 0) figures += fmt::format("  {}/s", format_size(bytes_per_second));
        const std::size_t taken = line.size() + figures.size() + 4;
        const std::size_t room = columns > taken ? std::min(widest_bar, columns - taken) : 0;
        if (room >= narrowest_bar) line += "  " + bar(part, room);
        line += "  " + figures;
    }
    // A line that wraps could not be drawn anew. Kinds, steps and figures are ASCII.
    if (line.size() > columns) line.resize(columns);
    return line;
}

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(terminal_size(STDERR_FILENO).columns > 0) {}

std::uint64_t Progress::rate(const JobStatus& status) {
    const auto now = std::chrono::steady_clock::now();
    if (status.total == 0 || status.total != counted_total_) {
        counted_total_ = status.total;
        first_done_ = status.done;
        first_seen_ = now;
    }
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now - first_seen_);
    if (passed < rate_after || status.done <= first_done_) return 0;
    return static_cast<std::uint64_t>(static_cast<double>(status.done - first_done_) /
                                      (static_cast<double>(passed.count()) / 1000));
}

void Progress::show(const JobStatus& status) {
    if (quiet_) return;
    if (terminal_) {
        // The last column stays free: some terminals wrap when it is filled.
        const std::size_t columns = terminal_size(STDERR_FILENO).columns - 1;
        put("\r" + progress_line(status, rate(status), columns) + "\x1b[K");
        drawn_ = true;
    } else if (!status.step.empty() && status.step != last_step_) {
        last_step_ = status.step;
        put(fmt::format("{}: {}\n", status.kind, status.step));
    }
}

void Progress::clear() {
    if (drawn_) put("\r\x1b[K");
    drawn_ = false;
}

}  // namespace volchain::client
