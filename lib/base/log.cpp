// SPDX-License-Identifier: MIT
#include "base/log.h"

#include <atomic>
#include <cstdio>

namespace volchain {
namespace {

std::atomic<LogLevel> level_limit{LogLevel::info};

LogSink& sink() {
    static LogSink current = log_to_stderr;
    return current;
}

}  // namespace

void set_log_sink(LogSink new_sink) {
    sink() = std::move(new_sink);
}
void set_log_level(LogLevel level) noexcept {
    level_limit = level;
}
LogLevel log_level() noexcept {
    return level_limit;
}

std::string_view name(LogLevel level) noexcept {
    switch (level) {
        case LogLevel::error:
            return "err";
        case LogLevel::warning:
            return "warning";
        case LogLevel::notice:
            return "notice";
        case LogLevel::info:
            return "info";
        case LogLevel::debug:
            return "debug";
    }
    return "info";
}

void write_log(LogLevel level, std::string_view message, const LogFields& fields) noexcept {
    try {
        sink()(level, message, fields);
    } catch (...) {
        // A log that cannot be written must not end the operation it speaks of.
        (void)std::fputs("volchain: log entry lost\n", stderr);
    }
}

void log_to_stderr(LogLevel level, std::string_view message, const LogFields& fields) {
    std::string line = fmt::format("<{}>{}", static_cast<int>(level), message);
    for (const auto& [field, value] : fields) line += fmt::format(" {}={}", field, value);
    for (char& c : line)
        if (c == '\n') c = ' ';
    line += '\n';
    (void)std::fwrite(line.data(), 1, line.size(), stderr);
}

const Logger& log() noexcept {
    static const Logger plain;
    return plain;
}

}  // namespace volchain
