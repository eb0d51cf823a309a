// SPDX-License-Identifier: MIT
//
// The log: a level, a sentence, and fields that say which objects it is about (VOLCHAIN_JOB, VOLCHAIN_VM,
// ...). Where entries go is decided by the program: set_log_sink() once in main (the journal, or stderr,
// which is the default). Libraries log at debug, and at warning where something failed that nobody is told of
// otherwise; an error that is thrown is logged once, by whoever ends the operation.
#pragma once

#include <fmt/core.h>

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace volchain {

/// The numbers are syslog's.
enum class LogLevel { error = 3, warning = 4, notice = 5, info = 6, debug = 7 };

/// Field name (upper case, as in the journal) and value.
using LogFields = std::vector<std::pair<std::string_view, std::string>>;
using LogSink = std::function<void(LogLevel, std::string_view message, const LogFields&)>;

void set_log_sink(LogSink sink);
/// Entries above this level are dropped; info unless set.
void set_log_level(LogLevel level) noexcept;
[[nodiscard]] LogLevel log_level() noexcept;
/// "err", "warning", "notice", "info" or "debug": the words of org.freedesktop.LogControl1.
[[nodiscard]] std::string_view name(LogLevel level) noexcept;

void write_log(LogLevel level, std::string_view message, const LogFields& fields) noexcept;
/// The default sink: "<6>message FIELD=value" on stderr, in systemd's stderr prefix convention
/// (sd-daemon(3)).
void log_to_stderr(LogLevel level, std::string_view message, const LogFields& fields);

/// Log with objects named in fields: logger.with("VOLCHAIN_JOB", id).info("...").
class Logger {
  public:
    Logger() = default;
    explicit Logger(LogFields fields) : fields_(std::move(fields)) {}

    [[nodiscard]] Logger with(std::string_view field, std::string value) const {
        Logger more(fields_);
        more.fields_.emplace_back(field, std::move(value));
        return more;
    }

    template <typename... Args>
    void error(fmt::format_string<Args...> format, Args&&... args) const {
        log(LogLevel::error, format, std::forward<Args>(args)...);
    }
    template <typename... Args>
    void warning(fmt::format_string<Args...> format, Args&&... args) const {
        log(LogLevel::warning, format, std::forward<Args>(args)...);
    }
    template <typename... Args>
    void notice(fmt::format_string<Args...> format, Args&&... args) const {
        log(LogLevel::notice, format, std::forward<Args>(args)...);
    }
    template <typename... Args>
    void info(fmt::format_string<Args...> format, Args&&... args) const {
        log(LogLevel::info, format, std::forward<Args>(args)...);
    }
    template <typename... Args>
    void debug(fmt::format_string<Args...> format, Args&&... args) const {
        log(LogLevel::debug, format, std::forward<Args>(args)...);
    }

  private:
    template <typename... Args>
    void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) const {
        if (level <= log_level()) write_log(level, fmt::format(format, std::forward<Args>(args)...), fields_);
    }

    LogFields fields_;
};

/// The logger without fields.
[[nodiscard]] const Logger& log() noexcept;

}  // namespace volchain
