// SPDX-License-Identifier: MIT
//
// LogControl: org.freedesktop.LogControl1, by which `systemctl service-log-level` and `service-log-target`
// look at and change the log of the running daemon. Setting needs privileges; sd-bus itself looks after that.
#pragma once

#include <systemd/sd-bus.h>

#include <string>
#include <vector>

#include "systemd/bus_connection.h"
#include "systemd/journal.h"

namespace volchain::systemd {

class LogControl {
  public:
    /// `target`: where the log goes now. Setting another one replaces the log's sink.
    LogControl(bus::Connection& connection, std::string identifier, LogTarget target);
    LogControl(const LogControl&) = delete;
    LogControl& operator=(const LogControl&) = delete;

  private:
    static int get(sd_bus*, const char*, const char*, const char* property, sd_bus_message* reply, void* self,
                   sd_bus_error* error) noexcept;
    static int set(sd_bus*, const char*, const char*, const char* property, sd_bus_message* value, void* self,
                   sd_bus_error* error) noexcept;

    std::string identifier_;
    LogTarget target_;
    std::vector<sd_bus_vtable> vtable_;
    bus::Slot slot_;
};

}  // namespace volchain::systemd
