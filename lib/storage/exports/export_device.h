// SPDX-License-Identifier: MIT
//
// An export as a disk of an appliance's running VM: its nodes in that VM's QEMU, and the device on them. Which QEMU that is,
// the record's process says: one that was started anew has nothing of it.
#pragma once

#include <chrono>
#include <string>

#include "async/process.h"
#include "storage/engine.h"

namespace volchain::storage {

/// The device's id in QEMU, as long as a serial may be.
[[nodiscard]] std::string export_device_id(const Uuid& id);
/// Whether a device of that VM is one that an export has plugged in, and so no disk of the VM's own.
[[nodiscard]] bool is_export_device(const Catalog& catalog, const Uuid& vm, const std::string& device);

/// Throws InvalidArgument where `serial` is none that a virtio disk can have.
void check_serial(const std::string& serial);

/// The QEMU that is the appliance now, and as whom it runs. NotRunning where the VM is down, Unreachable where nobody can
/// tell.
struct ApplianceProcess {
    ProcessMark mark;
    async::Identity identity;
};
[[nodiscard]] ApplianceProcess appliance_process(Engine& engine, const Uuid& vm);

/// Whether the appliance's QEMU is the one that the record says. Throws Unreachable where nobody can tell.
[[nodiscard]] bool appliance_is_there(Engine& engine, const ExportRecord& record);
/// Whether it has the device.
[[nodiscard]] async::Task<bool> has_export_device(Engine& engine, ExportRecord record);

/// Opens the layers, and the overlay of an export that is writable.
async::Task<> open_in_appliance(Engine& engine, ExportRecord record);
async::Task<> plug_into_appliance(Engine& engine, ExportRecord record);
/// Returns when the guest has let go of it. Errors as those of Departure (device.h).
async::Task<> unplug_from_appliance(Engine& engine, ExportRecord record, async::Clock::duration limit);
/// Closes what was opened, after the device.
async::Task<> close_in_appliance(Engine& engine, ExportRecord record);

}  // namespace volchain::storage
