// SPDX-License-Identifier: MIT
#include "systemd/journal.h"

// The log names no places in the source: entries are told apart by what they say.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace volchain::systemd {
namespace {

void log_to_journal(const std::string& identifier, LogLevel level, std::string_view message,
                    const LogFields& fields) {
    std::vector<std::string> entry = journal_fields(identifier, level, message, fields);
    std::vector<iovec> parts;
    parts.reserve(entry.size());
    for (std::string& field : entry) parts.push_back(iovec{field.data(), field.size()});
    if (sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) < 0)
        log_to_stderr(level, message, fields);
}

}  // namespace

std::string_view name(LogTarget target) noexcept {
    return target == LogTarget::journal ? "journal" : "console";
}

std::optional<LogTarget> log_target(std::string_view name) noexcept {
    if (name == "journal") return LogTarget::journal;
    if (name == "console") return LogTarget::console;
    return std::nullopt;
}

LogTarget default_log_target() {
    const char* stream = std::getenv("JOURNAL_STREAM");
    struct stat status {};
    if (stream == nullptr || ::fstat(STDERR_FILENO, &status) < 0) return LogTarget::console;
    return fmt::format("{}:{}", status.st_dev, status.st_ino) == stream ? LogTarget::journal
                                                                        : LogTarget::console;
}

LogSink log_sink(LogTarget target, std::string identifier) {
    if (target == LogTarget::console) return log_to_stderr;
    return [identifier = std::move(identifier)](LogLevel level, std::string_view message,
                                                const LogFields& fields) {
        log_to_journal(identifier, level, message, fields);
    };
}

std::vector<std::string> journal_fields(std::string_view identifier, LogLevel level, std::string_view message,
                                        const LogFields& fields) {
    std::vector<std::string> entry;
    entry.reserve(fields.size() + 3);
    entry.push_back(fmt::format("MESSAGE={}", message));
    entry.push_back(fmt::format("PRIORITY={}", static_cast<int>(level)));
    entry.push_back(fmt::format("SYSLOG_IDENTIFIER={}", identifier));
    for (const auto& [field, value] : fields) entry.push_back(fmt::format("{}={}", field, value));
    return entry;
}

}  // namespace volchain::systemd
