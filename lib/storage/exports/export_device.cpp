// SPDX-License-Identifier: MIT
#include "storage/exports/export_device.h"

#include <algorithm>

#include "base/text.h"
#include "storage/exports/export_process.h"
#include "storage/exports/export_server.h"
#include "storage/qemu/device.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

constexpr const char* device_driver = "virtio-blk-pci";
/// VIRTIO_BLK_ID_BYTES; the device's id has as many.
constexpr std::size_t max_serial_bytes = 20;
/// QEMU closes what a device had some moments after that is gone.
constexpr auto node_release_limit = std::chrono::seconds(5);

/// The nodes that were opened for an export, those on top first.
std::vector<std::string> nodes_of_export(const qmp::BlockGraph& graph, const Uuid& id) {
    const std::string prefix = node_name_of(id);
    const auto own = [&](const std::string& name) { return name.starts_with(prefix); };
    std::vector<std::string> all;
    for (const auto& [name, node] : graph.nodes()) {
        const auto above = graph.parents(name);
        const bool covered = std::any_of(above.begin(), above.end(),
                                         [&](const qmp::Node* parent) { return own(parent->name); });
        if (!own(name) || covered) continue;
        for (const std::string& below : nodes_below(graph, name)) all.push_back(below);
    }
    return all;
}

}  // namespace

std::string export_device_id(const Uuid& id) {
    std::string text = id.str();
    std::erase(text, '-');
    return "vce-" + text.substr(0, max_serial_bytes - 4);
}

bool is_export_device(const Catalog& catalog, const Uuid& vm, const std::string& device) {
    return std::any_of(catalog.exports().begin(), catalog.exports().end(), [&](const auto& entry) {
        return entry.second.appliance == vm && export_device_id(entry.first) == device;
    });
}

void check_serial(const std::string& serial) {
    const auto odd = [](char c) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        return !plain && c != '-' && c != '_' && c != '.';
    };
    if (serial.size() > max_serial_bytes || std::any_of(serial.begin(), serial.end(), odd))
        throw Error(ErrorCode::invalid_argument,
                    "option 'serial': {} is not up to {} letters, digits, '-', '_' and '.'",
                    quote(clipped(serial)), max_serial_bytes);
}

ApplianceProcess appliance_process(Engine& engine, const Uuid& vm) {
    const std::shared_ptr<qmp::Session> session = engine.vm(vm).session();
    if (!session->peer())
        throw Error(ErrorCode::unsupported, "{}: it cannot be told which process serves its monitor",
                    engine.catalog().describe({ObjectKind::vm, vm}));
    ApplianceProcess process;
    process.mark = mark_of_process(session->peer()->pid());
    process.identity.uid = session->peer()->uid();
    process.identity.gid = session->peer()->gid();
    return process;
}

bool appliance_is_there(Engine& engine, const ExportRecord& record) {
    if (!engine.catalog().has({ObjectKind::vm, record.appliance}) || engine.vm(record.appliance).down())
        return false;
    return appliance_process(engine, record.appliance).mark == record.server;
}

async::Task<bool> has_export_device(Engine& engine, ExportRecord record) {
    const auto session = engine.vm(record.appliance).session();
    const qmp::BlockGraph graph =
        co_await qmp::read_block_graph(session, async::after(engine.settings().command_timeout));
    co_return graph.find_device(export_device_id(record.id)) != nullptr;
}

async::Task<> open_in_appliance(Engine& engine, ExportRecord record) {
    const auto session = engine.vm(record.appliance).session();
    (void)co_await open_export_layers(engine, session, record);
}

async::Task<> plug_into_appliance(Engine& engine, ExportRecord record) {
    const Catalog& catalog = engine.catalog();
    const std::string top = record.writable ? node_name_of(record.id)
                                            : plan_layers(catalog, record.id, record.volume).front().node;
    NewDevice device(device_driver, export_device_id(record.id), top);
    device.serial = record.serial;
    const auto session = engine.vm(record.appliance).session();
    co_await plug(session, std::move(device), async::after(engine.settings().command_timeout));
}

async::Task<> unplug_from_appliance(Engine& engine, ExportRecord record, async::Clock::duration limit) {
    Departure departure(engine.vm(record.appliance).session(), export_device_id(record.id));
    co_await departure.wait(limit);
}

async::Task<> close_in_appliance(Engine& engine, ExportRecord record) {
    const auto session = engine.vm(record.appliance).session();
    const qmp::BlockGraph graph =
        co_await qmp::read_block_graph(session, async::after(engine.settings().command_timeout));
    co_await remove_nodes(session, nodes_of_export(graph, record.id), async::after(node_release_limit));
}

}  // namespace volchain::storage
