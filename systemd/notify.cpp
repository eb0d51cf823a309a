// SPDX-License-Identifier: MIT
#include "systemd/notify.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"
#include "base/log.h"

namespace volchain::systemd {
namespace {

void notify(const std::string& state) {
    const int result = sd_notify(0, state.c_str());
    if (result < 0) log().warning("{}", system_error(-result, "cannot tell the service manager").what());
}

}  // namespace

void notify_ready() {
    notify("READY=1");
}
void notify_stopping() {
    notify("STOPPING=1");
}

void notify_status(const std::string& status) {
    std::string line = "STATUS=" + status;
    std::replace(line.begin(), line.end(), '\n', ' ');  // a line of its own would be another assignment
    notify(line);
}

void notify_extend_timeout(std::chrono::microseconds more) {
    notify(fmt::format("EXTEND_TIMEOUT_USEC={}", more.count()));
}

async::Task<> run_watchdog() {
    std::uint64_t limit_usec = 0;
    const int result = sd_watchdog_enabled(0, &limit_usec);
    if (result < 0) log().warning("{}", system_error(-result, "cannot read the watchdog's settings").what());
    if (result <= 0) co_return;
    const auto interval = std::chrono::microseconds(limit_usec / 2);
    while (true) {
        notify("WATCHDOG=1");
        co_await async::sleep_until(async::after(interval));
    }
}

}  // namespace volchain::systemd
