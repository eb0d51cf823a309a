// SPDX-License-Identifier: MIT
#include "storage/checks/graph_findings.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

class GraphFinder {
  public:
    GraphFinder(const Catalog& catalog, const DiskView& view, Findings& findings)
        : catalog_(catalog), view_(view), disk_(catalog.disk(view.disk)), findings_(findings) {}

    void find() {
        if (!view_.qemu.unknown.empty())
            add(FindingKind::unchecked, Severity::warning,
                fmt::format("nobody can tell what the QEMU of {} has of {}: {}", vm_name(), disk_name(),
                            view_.qemu.unknown));
        if (!view_.qemu.running) return;
        if (const LiveDisk* live = view_.qemu.disk_on(path(disk_.active)))
            layers(*live);
        else if (const Uuid other = view_.running_on(catalog_))
            runs_elsewhere(other);
        else
            add(FindingKind::graph, Severity::warning,
                fmt::format(
                    "{} is running without {}: what is recorded as its disk is not plugged in; plug it in by "
                    "'volchainctl disk detach' and 'attach', or leave it detached",
                    vm_name(), disk_name()));
        for (const std::string& job : view_.qemu.jobs) this->job(job);
        superfluous_nodes();
    }

  private:
    [[nodiscard]] std::string path(const Uuid& id) const { return catalog_.path(catalog_.volume(id)); }
    [[nodiscard]] std::string name(const Uuid& id) const {
        return catalog_.describe({ObjectKind::volume, id});
    }
    [[nodiscard]] std::string disk_name() const { return catalog_.describe({ObjectKind::disk, disk_.id}); }
    [[nodiscard]] std::string vm_name() const { return catalog_.describe({ObjectKind::vm, disk_.vm}); }

    Finding& add(FindingKind kind, Severity severity, std::string message) {
        return findings_.emplace_back(kind, severity, std::move(message));
    }

    void runs_elsewhere(const Uuid& other) {
        const VolumeRecord& active = catalog_.volume(disk_.active);
        const std::string snapshots = snapshots_on(catalog_, other);
        std::string way_out =
            "another program has switched it; end the VM when it can be spared and start it with what "
            "'volchainctl vm launch-arguments' says, knowing that what was written meanwhile is in the "
            "former";
        if (active.mark == VolumeMark::illegal)
            way_out = snapshots.empty()
                          ? fmt::format(
                                "a merge had switched it when it was broken off: commit {} into "
                                "it again ('volchainctl volume commit') to have it recorded",
                                name(disk_.active))
                          : fmt::format(
                                "a merge had switched it when it was broken off: delete {} again "
                                "to have it recorded",
                                snapshots);
        add(FindingKind::graph, Severity::error,
            fmt::format("{} runs on {}, but the active volume of {} is {}: {}", vm_name(), name(other),
                        disk_name(), name(disk_.active), way_out))
            .of(catalog_, other);
    }

    /// From the active one down to the first difference.
    void layers(const LiveDisk& live) {
        const std::vector<Uuid> chain = catalog_.chain(disk_.active);
        for (std::size_t i = 0; i < chain.size(); ++i) {
            if (i < live.layers.size()) driver(chain[i], live.layers[i].driver);
            const auto& reference = catalog_.facts(chain[i]).backing;
            const bool foreign = reference && i + 1 == chain.size();
            if (catalog_.facts(chain[i]).state != VolumeState::ok || foreign) return;
            const std::string in_header = i + 1 < chain.size() ? path(chain[i + 1]) : std::string();
            const std::string in_qemu = i + 1 < live.layers.size() ? live.layers[i + 1].path : std::string();
            if (in_header == in_qemu) continue;
            const auto shown = [](const std::string& file) { return file.empty() ? "nothing" : quote(file); };
            add(FindingKind::graph, Severity::error,
                fmt::format(
                    "{} stands on {} in the running QEMU, but its header names {}: the guest will not find "
                    "after its next start what it has now; set the header right with 'qemu-img rebase -u' "
                    "when the VM is down, before it is started again",
                    name(chain[i]), shown(in_qemu), shown(in_header)))
                .of(catalog_, chain[i]);
            return;
        }
    }

    void driver(const Uuid& id, const std::string& driver) {
        const VolumeFormat format = catalog_.volume(id).format;
        const bool raw = driver == "raw" || driver == "file";
        if (raw == (format == VolumeFormat::raw)) return;
        add(FindingKind::format, Severity::error,
            fmt::format(
                "QEMU has {} open as {}, but it is recorded as {}: the guest sees something else than every "
                "other reader",
                name(id), driver, word(format)))
            .of(catalog_, id);
    }

    /// Called after the volume it is about (Merge::job_id()).
    void job(const std::string& id) {
        for (const Uuid& volume : catalog_.volumes_of_disk(disk_.id)) {
            if (!id.starts_with("vc-") || !id.ends_with(volume.str().substr(0, 18))) continue;
            add(FindingKind::graph, Severity::warning,
                fmt::format(
                    "the QEMU of {} still has the job {} on {}, which belongs to nothing that is under way: "
                    "begin the merge anew, which takes it up",
                    vm_name(), quote(id), name(volume)))
                .of(catalog_, volume);
        }
    }

    // --- nodes ---

    /// Those that volchain has added, that no device stands on and no other node, and that keep a file open which is none
    /// of the disk's layers.
    void superfluous_nodes() {
        std::set<std::string> needed;
        for (const qmp::Device& device : view_.qemu.graph.devices())
            for (const std::string& node : nodes_below(view_.qemu.graph, device.root)) needed.insert(node);
        for (const auto& [node, description] : view_.qemu.graph.nodes()) {
            const bool ours = node.starts_with("vc-") || node.starts_with("vcf-");
            if (!ours || needed.contains(node) || !view_.qemu.graph.parents(node).empty()) continue;
            const std::string file = view_.qemu.graph.file(node).value_or("");
            if (!concerns(file)) continue;
            add(FindingKind::graph, Severity::info,
                fmt::format(
                    "the QEMU of {} still has the block node {}, which nothing uses, and keeps {} open by it",
                    vm_name(), quote(node), quote(file)))
                .at(file)
                .mended_by(Remedy::delete_node, node);
        }
    }

    /// A volume of the disk, or a file beside one that is no volume.
    [[nodiscard]] bool concerns(const std::string& file) const {
        if (file.empty() || !valid_utf8(file)) return false;
        if (const VolumeRecord* volume = catalog_.find_volume(file)) return volume->disk == disk_.id;
        const std::filesystem::path directory = std::filesystem::path(file).parent_path();
        const std::vector<Uuid> volumes = catalog_.volumes_of_disk(disk_.id);
        return std::any_of(volumes.begin(), volumes.end(), [&](const Uuid& volume) {
            return std::filesystem::path(path(volume)).parent_path() == directory;
        });
    }

    const Catalog& catalog_;
    const DiskView& view_;
    const DiskRecord& disk_;
    Findings& findings_;
};

}  // namespace

void find_in_graph(const Catalog& catalog, const DiskView& view, Findings& findings) {
    GraphFinder(catalog, view, findings).find();
}

}  // namespace volchain::storage
