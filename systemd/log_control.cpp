// SPDX-License-Identifier: MIT
#include "systemd/log_control.h"

#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "systemd/raw_vtable.h"

namespace volchain::systemd {
namespace {

std::optional<LogLevel> log_level_of(std::string_view wanted) noexcept {
    for (const LogLevel level :
         {LogLevel::error, LogLevel::warning, LogLevel::notice, LogLevel::info, LogLevel::debug})
        if (volchain::name(level) == wanted) return level;
    return std::nullopt;
}

}  // namespace

LogControl::LogControl(bus::Connection& connection, std::string identifier, LogTarget target)
    : identifier_(std::move(identifier)), target_(target) {
    vtable_ = {
        bus::vtable_start(),
        bus::vtable_writable_property("LogLevel", "s", get, set, this, 0),
        bus::vtable_writable_property("LogTarget", "s", get, set, this, 0),
        bus::vtable_property("SyslogIdentifier", "s", get, this, SD_BUS_VTABLE_PROPERTY_CONST),
        bus::vtable_end(),
    };
    sd_bus_slot* slot = nullptr;
    const int result = sd_bus_add_object_vtable(connection.native(), &slot, "/org/freedesktop/LogControl1",
                                                "org.freedesktop.LogControl1", vtable_.data(), nullptr);
    if (result < 0) throw system_error(-result, "cannot show the log's controls on the bus");
    slot_.reset(slot);
}

int LogControl::get(sd_bus*, const char*, const char*, const char* property, sd_bus_message* reply,
                    void* self, sd_bus_error*) noexcept {
    const auto& control = *static_cast<LogControl*>(self);
    const std::string_view wanted = property;
    std::string value = control.identifier_;
    if (wanted == "LogLevel")
        value = volchain::name(log_level());
    else if (wanted == "LogTarget")
        value = name(control.target_);
    return sd_bus_message_append_basic(reply, 's', value.c_str());
}

int LogControl::set(sd_bus*, const char*, const char*, const char* property, sd_bus_message* value,
                    void* self, sd_bus_error* error) noexcept {
    auto& control = *static_cast<LogControl*>(self);
    const char* wanted = nullptr;
    if (const int result = sd_bus_message_read_basic(value, 's', static_cast<void*>(&wanted)); result < 0)
        return result;
    try {
        if (std::string_view(property) == "LogLevel") {
            const auto level = log_level_of(wanted);
            if (!level)
                return sd_bus_error_set(error, SD_BUS_ERROR_INVALID_ARGS,
                                        "The log level is err, warning, notice, info or debug");
            set_log_level(*level);
            return 1;
        }
        const auto target = log_target(wanted);
        if (!target)
            return sd_bus_error_set(error, SD_BUS_ERROR_INVALID_ARGS, "The log target is journal or console");
        set_log_sink(log_sink(*target, control.identifier_));
        control.target_ = *target;
        return 1;
    } catch (...) {
        return -ENOMEM;
    }
}

}  // namespace volchain::systemd
