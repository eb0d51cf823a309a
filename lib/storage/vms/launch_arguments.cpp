// SPDX-License-Identifier: MIT
#include "storage/vms/launch_arguments.h"

#include <algorithm>
#include <tuple>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/memory/resume_state.h"

namespace volchain::storage {
namespace {

/// 64 bits of an id: names of nodes have at most 31 characters.
std::string short_hex(const Uuid& id) {
    std::string text = id.str();
    std::erase(text, '-');
    return text.substr(0, 16);
}

/// A value in QEMU's key=value syntax, in which a comma begins the next key (qemu(1), "-drive").
std::string escaped(const std::string& value) {
    std::string text;
    for (const char c : value) {
        text += c;
        if (c == ',') text += ',';
    }
    return text;
}

void check_model(const std::string& device) {
    const auto odd = [](char c) {
        return !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                 c == '_' || c == '.');
    };
    if (device.size() > 64 || std::any_of(device.begin(), device.end(), odd))
        throw Error(ErrorCode::invalid_argument,
                    "option 'device': {} is not the name of a device model, as virtio-blk-pci is",
                    quote(device));
}

qmp::NodeOptions options_of(const DiskRecord& disk) {
    if (disk.node_options.empty()) return {};
    return qmp::NodeOptions::parse(JsonReader(disk.node_options, "disk options", ErrorCode::internal));
}

void add_disk(const Engine& engine, const DiskRecord& disk, std::vector<std::string>& arguments) {
    const Catalog& catalog = engine.catalog();
    qmp::NodeOptions options = options_of(disk);
    const qmp::DetectZeroes detect_zeroes = options.detect_zeroes;
    std::vector<Uuid> chain = catalog.chain(disk.active);
    std::reverse(chain.begin(), chain.end());
    std::string below;
    for (const Uuid& id : chain) {
        const VolumeRecord& volume = catalog.volume(id);
        const bool top = id == disk.active;
        const std::string name = top ? root_node_name(disk.id) : "vc-" + short_hex(id);
        // Nobody writes zeroes to the others.
        options.detect_zeroes = top ? detect_zeroes : qmp::DetectZeroes::off;
        // So that an idle backing image's bitmaps are not marked as in use, and a commit can write to it.
        const qmp::Access file_access = top ? qmp::Access::read_write : qmp::Access::automatic;
        const qmp::Access access = top ? qmp::Access::read_write : qmp::Access::read_only;
        Json file = qmp::file_node("vcf-" + short_hex(id), catalog.path(volume), file_access, options);
        Json node = qmp::format_node(name, word(volume.format), std::move(file), access, options);
        if (!below.empty())
            node = qmp::with_backing(std::move(node), below);
        else if (volume.format == VolumeFormat::qcow2)
            node = qmp::without_backing(std::move(node));
        arguments.emplace_back("-blockdev");
        arguments.push_back(node.dump());
        below = name;
    }
}

void add_device(const DiskRecord& disk, const std::string& model, std::vector<std::string>& arguments) {
    const std::string node = root_node_name(disk.id);
    std::string device = fmt::format("{},drive={},id={}", model, node, node);
    if (!disk.target.empty()) device += ",serial=" + escaped(disk.target);
    if (disk.shareable) device += ",share-rw=on";
    arguments.emplace_back("-device");
    arguments.push_back(std::move(device));
}

void check_chain(const Engine& engine, const Uuid& disk) {
    const Catalog& catalog = engine.catalog();
    std::string why = engine.broken(disk);
    const Uuid bottom = catalog.chain(catalog.disk(disk).active).back();
    const VolumeFacts& facts = catalog.facts(bottom);
    if (why.empty() && facts.backing)
        why = fmt::format("{} stands on {}, which is no volume, or above it",
                          catalog.describe({ObjectKind::volume, bottom}), quote(facts.backing->name));
    if (!why.empty())
        throw Error(ErrorCode::broken_chain, "{} cannot be opened: {}",
                    catalog.describe({ObjectKind::disk, disk}), why);
}

/// As whoever sets up a machine would name them.
std::vector<Uuid> disks_in_order(const Catalog& catalog, const Uuid& vm) {
    std::vector<Uuid> disks = catalog.disks_of_vm(vm);
    const auto key = [&](const Uuid& id) {
        return std::tie(catalog.disk(id).target, catalog.disk(id).name, id);
    };
    std::sort(disks.begin(), disks.end(), [&](const Uuid& a, const Uuid& b) { return key(a) < key(b); });
    return disks;
}

async::Task<bool> goes_on_from_memory(Engine& engine, Uuid vm, std::optional<bool> memory) {
    const bool due = due_memory(engine.catalog(), vm) != nullptr;
    if (!memory.value_or(due)) co_return false;
    const std::string why = co_await why_memory_is_void(engine, vm);
    if (why.empty()) co_return true;
    const std::string what = engine.catalog().describe({ObjectKind::vm, vm});
    if (memory)
        throw Error(ErrorCode::invalid_argument, "option 'memory': {} cannot go on from memory: {}", what,
                    why);
    log().with("VOLCHAIN_VM", vm.str()).notice("{} boots, without the memory that was due: {}", what, why);
    co_return false;
}

}  // namespace

std::string root_node_name(const Uuid& disk) {
    return "vcd-" + short_hex(disk);
}

async::Task<std::vector<std::string>> launch_arguments(Engine& engine, Uuid vm, std::string device,
                                                       std::optional<bool> memory) {
    const Catalog& catalog = engine.catalog();
    (void)catalog.vm(vm);
    check_model(device);
    std::vector<Uuid> layers;
    for (const Uuid& disk : catalog.disks_of_vm(vm)) {
        const std::vector<Uuid> chain = catalog.chain(catalog.disk(disk).active);
        layers.insert(layers.end(), chain.begin(), chain.end());
    }
    co_await engine.inspect_volumes(std::move(layers));
    std::vector<std::string> arguments;
    for (const Uuid& disk : disks_in_order(catalog, vm)) {
        check_chain(engine, disk);
        add_disk(engine, catalog.disk(disk), arguments);
        if (!device.empty()) add_device(catalog.disk(disk), device, arguments);
    }
    const bool resumes = co_await goes_on_from_memory(engine, vm, memory);
    if (resumes) arguments.insert(arguments.end(), {"-incoming", "defer"});
    co_return arguments;
}

}  // namespace volchain::storage
