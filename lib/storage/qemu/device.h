// SPDX-License-Identifier: MIT
//
// Guest devices that come and go in a running QEMU. What they stand on is no matter of this.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "async/condition.h"
#include "qmp/session.h"

namespace volchain::storage {

/// Arguments of device_add. A class with a constructor, so that it may be handed to coroutines.
struct NewDevice {
    NewDevice(std::string model, std::string called, std::string on)
        : driver(std::move(model)), id(std::move(called)), node(std::move(on)) {}

    std::string driver;
    std::string id;
    std::string node;
    std::string bus;     ///< empty: QEMU's choice; where that takes no plugging, a PCIe port that is free
    std::string serial;  ///< empty: none
    bool shareable = false;
};

/// Plugs it in. Throws CommandError where QEMU refused, and changed nothing.
async::Task<> plug(std::shared_ptr<qmp::Session> session, NewDevice device, async::Deadline deadline);

/// The departure of a device, from when it is asked for to the guest's letting go.
class Departure {
  public:
    /// `device`: qdev id or QOM path.
    Departure(std::shared_ptr<qmp::Session> session, std::string device);
    Departure(const Departure&) = delete;
    Departure& operator=(const Departure&) = delete;

    /// Asks until the deadline, some times. Returns when the device is gone. Throws Timeout where the guest does not
    /// answer, QemuFailed where it, or QEMU, refuses: then the device is where it was. A request that a guest has not
    /// answered stays with it; it may let go later.
    async::Task<> wait(async::Clock::duration limit);
    /// Whether a request went out.
    [[nodiscard]] bool asked() const noexcept { return asked_; }

  private:
    void take(const qmp::Event& event);
    [[nodiscard]] bool is_about(const qmp::Event& event) const;
    async::Task<> ask(async::Deadline deadline);
    async::Task<> wait_until(async::Deadline deadline);

    std::shared_ptr<qmp::Session> session_;
    std::string device_;
    bool asked_ = false;
    bool gone_ = false;
    bool refused_ = false;
    async::Condition changed_;
    qmp::Subscription subscription_;
};

}  // namespace volchain::storage
