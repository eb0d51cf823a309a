// SPDX-License-Identifier: MIT
//
// Where the log goes: the journal, with the fields of an entry as fields that `journalctl VOLCHAIN_VM=...`
// finds, or stderr. A service whose stderr is connected to the journal logs to it directly.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace volchain::systemd {

enum class LogTarget { journal, console };

/// "journal" or "console": the words of org.freedesktop.LogControl1.
[[nodiscard]] std::string_view name(LogTarget target) noexcept;
[[nodiscard]] std::optional<LogTarget> log_target(std::string_view name) noexcept;

/// journal where stderr is the stream that JOURNAL_STREAM names (systemd.exec(5)), else console.
[[nodiscard]] LogTarget default_log_target();

/// The sink for set_log_sink(). `identifier`: SYSLOG_IDENTIFIER, what `journalctl -t` takes.
[[nodiscard]] LogSink log_sink(LogTarget target, std::string identifier);

/// One entry as the journal takes it: "FIELD=value" each.
[[nodiscard]] std::vector<std::string> journal_fields(std::string_view identifier, LogLevel level,
                                                      std::string_view message, const LogFields& fields);

}  // namespace volchain::systemd
