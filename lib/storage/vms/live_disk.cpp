// SPDX-License-Identifier: MIT
#include "storage/vms/live_disk.h"

#include <filesystem>
#include <set>

#include "base/log.h"
#include "base/text.h"
#include "qmp/command_line.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// The files that a process has open, as the kernel names them: without links, and without a look at the file
/// systems that they are on, which may not answer.
std::set<std::string> open_files(pid_t pid) {
    std::set<std::string> files;
    if (pid == 0) return files;
    std::error_code failure;
    for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), failure)) {
        std::error_code gone;
        files.insert(fs::read_symlink(entry.path(), gone).string());
    }
    return files;
}

/// The file behind a name that QEMU gave: relative names are relative to the directory it was started in.
std::string resolved(const std::string& name, pid_t pid, const std::set<std::string>& open) {
    if (open.contains(name)) return name;
    std::error_code failure;
    fs::path path(name);
    if (path.is_relative() && pid != 0)
        path = fs::read_symlink(fmt::format("/proc/{}/cwd", pid), failure) / path;
    const fs::path real = fs::canonical(path, failure);
    return failure ? path.lexically_normal().string() : real.string();
}

/// A raw node that shows a part of what is beneath it, which QEMU puts into its name.
bool shows_a_part(const qmp::Node& node) {
    constexpr std::string_view pseudo = "json:";
    if (node.driver != "raw" || !node.filename.starts_with(pseudo)) return false;
    const Json options = parse_json(std::string_view(node.filename).substr(pseudo.size()),
                                    "file name of a node", ErrorCode::qemu_failed);
    return options.contains("offset") || options.contains("size");
}

/// Volumes are whole, regular files.
std::string oddity_of(const qmp::BlockGraph& graph, const qmp::Node& layer) {
    const qmp::Node* node = &layer;
    while (true) {
        if (shows_a_part(*node)) return fmt::format("node {} shows a part of its file", quote(node->name));
        const qmp::Node* const beneath = graph.layer(node->child("file"));
        if (beneath == nullptr || beneath == node) break;
        node = beneath;
    }
    if (node->driver == "file") return {};
    return fmt::format("it is no file (driver {})", quote(node->driver));
}

std::vector<LiveLayer> layers_of(const qmp::BlockGraph& graph, const std::string& root, pid_t pid,
                                 const std::set<std::string>& open) {
    std::vector<LiveLayer> layers;
    for (const qmp::Node* node : graph.chain(root)) {
        const auto file = graph.file(node->name);
        layers.push_back({node->name, node->driver, file ? resolved(*file, pid, open) : std::string(),
                          file ? oddity_of(graph, *node) : std::string(), std::string(node->child("file")),
                          node->bitmaps});
    }
    return layers;
}

/// What QEMU tells of the active layer's options, and for the rest what its command line says. The disk of a
/// hot-plugged device is in neither: then freed blocks are passed on, as nothing is lost by that.
void read_options(LiveDisk& disk, const qmp::Device& device, const qmp::Node& node, const std::string& file,
                  const std::vector<std::string>& command_line) {
    std::vector<std::string> names{node.name};
    if (!device.backend.empty()) names.push_back(device.backend);
    if (!file.empty()) names.push_back(file);
    const auto found = qmp::options_in_command_line(command_line, names);
    disk.options_known = found.has_value();
    disk.options = found.value_or(qmp::NodeOptions{});
    if (!found) disk.options.discard = true;
    disk.options.cache_direct = node.cache_direct;
    disk.options.cache_no_flush = node.cache_no_flush;
    disk.options.detect_zeroes =
        from_word<qmp::DetectZeroes>(node.detect_zeroes).value_or(qmp::DetectZeroes::off);
}

/// A property of the device, null where it has none of that name.
async::Task<Json> device_property(std::shared_ptr<qmp::Session> session, std::string device,
                                  std::string property, async::Deadline deadline) {
    Json arguments{{"path", std::move(device)}, {"property", std::move(property)}};
    Json value;
    try {
        value = co_await session->execute("qom-get", std::move(arguments), deadline);
    } catch (const qmp::CommandError&) {
    }
    co_return value;
}

}  // namespace

const LiveLayer* LiveDisk::layer(const std::string& path) const {
    const auto found = std::find_if(layers.begin(), layers.end(),
                                    [&](const LiveLayer& layer) { return layer.path == path; });
    return found == layers.end() ? nullptr : &*found;
}

async::Task<std::vector<LiveDisk>> read_live_disks(std::shared_ptr<qmp::Session> session, Settings settings) {
    const auto deadline = async::after(settings.command_timeout);
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(session, deadline);
    const pid_t pid = session->peer() ? session->peer()->pid() : 0;
    const std::vector<std::string> command_line =
        pid != 0 ? qmp::command_line_of(pid) : std::vector<std::string>();

    const std::set<std::string> open = open_files(pid);

    std::vector<LiveDisk> disks;
    for (const qmp::Device& device : graph.devices()) {
        const qmp::Node* const active = graph.layer(device.root);
        if (device.removable || active == nullptr || active->read_only) continue;
        LiveDisk disk;
        disk.device = device.id.empty() ? device.path : device.id;
        disk.layers = layers_of(graph, device.root, pid, open);
        read_options(disk, device, *active, graph.file(active->name).value_or(""), command_line);
        const Json serial = co_await device_property(session, device.path, "serial", deadline);
        const Json shared = co_await device_property(session, device.path, "share-rw", deadline);
        disk.target = serial.is_string() && !serial.get_ref<const std::string&>().empty()
                          ? serial.get<std::string>()
                          : disk.device;
        disk.shareable = shared.is_boolean() && shared.get<bool>();
        disks.push_back(std::move(disk));
    }
    co_return disks;
}

}  // namespace volchain::storage
