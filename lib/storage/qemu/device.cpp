// SPDX-License-Identifier: MIT
#include "storage/qemu/device.h"

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace volchain::storage {
namespace {

/// How often a guest that does not answer is asked. One that has just booted may have missed the first time.
constexpr int requests = 4;

Json device_arguments(const NewDevice& device) {
    Json arguments;
    arguments["driver"] = device.driver;
    arguments["id"] = device.id;
    arguments["drive"] = device.node;
    if (!device.bus.empty()) arguments["bus"] = device.bus;
    if (!device.serial.empty()) arguments["serial"] = device.serial;
    if (device.shareable) arguments["share-rw"] = true;
    return arguments;
}

/// PciBridgeInfo: ports and bridges that nothing is behind, as far as QEMU can tell. Their bus has their name.
void add_free_ports(const JsonReader& devices, std::vector<std::string>& ports) {
    for (const JsonReader& device : devices.elements()) {
        const auto bridge = device.find("pci_bridge");
        if (!bridge) continue;
        const auto behind = bridge->find("devices");
        const std::string id = device.string_or("qdev_id", "");
        if (behind && !behind->elements().empty())
            add_free_ports(*behind, ports);
        else if (!id.empty())
            ports.push_back(id);
    }
}

async::Task<std::vector<std::string>> free_ports(std::shared_ptr<qmp::Session> session,
                                                 async::Deadline deadline) {
    const Json answer = co_await session->execute("query-pci", Json::object(), deadline);
    std::vector<std::string> ports;
    for (const JsonReader& bus : JsonReader(answer, "query-pci", ErrorCode::qemu_failed).elements())
        add_free_ports(bus.at("devices"), ports);
    co_return ports;
}

async::Task<std::exception_ptr> try_to_plug(std::shared_ptr<qmp::Session> session, NewDevice device,
                                            async::Deadline deadline) {
    Json arguments = device_arguments(device);
    std::exception_ptr failure;
    co_await async::keep_failure(session->execute("device_add", std::move(arguments), deadline), failure);
    co_return failure;
}

bool takes_no_plugging(const std::exception_ptr& failure) {
    return std::string_view(to_error(failure).what()).find("does not support hotplugging") !=
           std::string_view::npos;
}

/// A request that was made before: qdev_unplug() in softmmu/qdev-monitor.c, pcie_cap_slot_unplug_request_cb() in
/// hw/pci/pcie.c, where the guest lets its user change their mind for five seconds.
bool is_under_way(const Error& error) {
    const std::string_view words = error.what();
    return words.find("already in the process of unplug") != std::string_view::npos ||
           words.find("power indicator blinking") != std::string_view::npos;
}

/// device_del knows a device; the backend of a virtio one is part of it.
std::string unpluggable(std::string device) {
    constexpr std::string_view part = "/virtio-backend";
    if (device.ends_with(part)) device.resize(device.size() - part.size());
    return device;
}

}  // namespace

async::Task<> plug(std::shared_ptr<qmp::Session> session, NewDevice device, async::Deadline deadline) {
    std::exception_ptr failure = co_await try_to_plug(session, device, deadline);
    if (!failure) co_return;
    // The first bus that QEMU finds may be one that nothing can be plugged into, as pcie.0 is.
    if (!device.bus.empty() || !takes_no_plugging(failure)) std::rethrow_exception(failure);
    const std::vector<std::string> ports = co_await free_ports(session, deadline);
    for (const std::string& port : ports) {
        device.bus = port;
        const std::exception_ptr refused = co_await try_to_plug(session, device, deadline);
        if (!refused) co_return;
        failure = refused;
    }
    if (!ports.empty()) std::rethrow_exception(failure);
    throw Error(
        ErrorCode::unsupported,
        "the VM has no bus that {} could be plugged into: start it with a PCIe root port to spare, or name "
        "another device and its bus ({})",
        device.driver, to_error(failure).what());
}

Departure::Departure(std::shared_ptr<qmp::Session> session, std::string device)
    : session_(std::move(session)), device_(unpluggable(std::move(device))) {
    subscription_ =
        session_->subscribe([this](const qmp::Event& event) { take(event); }, [this] { changed_.notify(); });
}

bool Departure::is_about(const qmp::Event& event) const {
    const JsonReader data = event.read();
    return data.string_or("device", "") == device_ || data.string_or("path", "") == device_;
}

void Departure::take(const qmp::Event& event) {
    if (event.name == "DEVICE_DELETED" && is_about(event)) gone_ = true;
    if (event.name == "DEVICE_UNPLUG_GUEST_ERROR" && is_about(event)) refused_ = true;
    changed_.notify();
}

async::Task<> Departure::ask(async::Deadline deadline) {
    Json arguments;
    arguments["id"] = device_;
    std::exception_ptr failure;
    const bool again = std::exchange(asked_, true);
    co_await async::keep_failure(session_->execute("device_del", std::move(arguments), deadline), failure);
    if (!failure) co_return;
    const Error error = to_error(failure);
    if (error.code() == ErrorCode::not_found) {
        gone_ = true;
        co_return;
    }
    // While a request is with the guest, QEMU takes no other.
    const bool under_way = again || is_under_way(error);
    if (!under_way || error.code() != ErrorCode::qemu_failed) std::rethrow_exception(failure);
}

async::Task<> Departure::wait_until(async::Deadline deadline) {
    while (!gone_ && !refused_ && !session_->closed() && async::Clock::now() < deadline) {
        std::exception_ptr timeout;
        co_await async::keep_failure(changed_.wait(deadline, "the guest to let go of a device"), timeout);
        if (timeout && to_error(timeout).code() == ErrorCode::cancelled) std::rethrow_exception(timeout);
    }
}

async::Task<> Departure::wait(async::Clock::duration limit) {
    const async::Deadline end = async::after(limit);
    for (int request = 0; request < requests && !gone_ && !refused_; ++request) {
        co_await ask(end);
        co_await wait_until(std::min(end, async::after(limit / requests)));
        if (!session_->closed()) continue;
        const Error loss = co_await session_->loss();
        throw loss;
    }
    if (refused_)
        throw Error(ErrorCode::qemu_failed, "the guest refuses to let go of device {}", quote(device_));
    if (!gone_)
        throw Error(
            ErrorCode::timeout,
            "the guest did not let go of device {} within {} ms; it was asked {} times, and may still do so "
            "when it gets to it",
            quote(device_), std::chrono::duration_cast<std::chrono::milliseconds>(limit).count(), requests);
}

}  // namespace volchain::storage
