// SPDX-License-Identifier: MIT
#include "storage/checks/mark_findings.h"

namespace volchain::storage {
namespace {

class MarkFinder {
  public:
    MarkFinder(const Catalog& catalog, const DiskView& view, Findings& findings)
        : catalog_(catalog), view_(view), disk_(catalog.disk(view.disk)), findings_(findings) {}

    void find() {
        for (const Uuid& volume : catalog_.volumes_of_disk(disk_.id)) mark(volume);
    }

  private:
    [[nodiscard]] std::string name(const Uuid& id) const {
        return catalog_.describe({ObjectKind::volume, id});
    }

    Finding& add(FindingKind kind, Severity severity, std::string message) {
        return findings_.emplace_back(kind, severity, std::move(message));
    }

    void mark(const Uuid& id) {
        switch (catalog_.volume(id).mark) {
            case VolumeMark::illegal:
                return illegal(id);
            case VolumeMark::leftover:
                return leftover(id);
            case VolumeMark::none:
                break;
        }
        const bool there = catalog_.facts(id).state != VolumeState::missing;
        if (there && needed_for(catalog_, id).empty() && others_readable(catalog_, id))
            add(FindingKind::unused, Severity::info,
                fmt::format(
                    "nothing leads to {}: no snapshot names it and nothing stands on it; a branch that "
                    "somebody made, or what is left of one. Where it is not wanted: 'volchainctl volume "
                    "delete'",
                    name(id)))
                .of(catalog_, id);
    }

    void illegal(const Uuid& id) {
        if (disk_.active == id) return illegal_active(id);
        const std::string snapshots = snapshots_on(catalog_, id);
        if (catalog_.children(id).empty() && snapshots.empty()) {
            add(FindingKind::illegal, Severity::warning,
                fmt::format(
                    "{} was left behind in the moment of a merge's switch, when neither QEMU nor the daemon "
                    "lived to tell which volume the guest wrote to last: it may hold what the active one "
                    "does "
                    "not; look at it, and when it is not needed: 'volchainctl volume delete'",
                    name(id)))
                .of(catalog_, id);
            return;
        }
        std::string way_out = "'volchainctl volume merge'";
        if (!snapshots.empty()) way_out = fmt::format("delete {} again", snapshots);
        add(FindingKind::illegal, Severity::warning,
            fmt::format("a merge into {} did not come to its end: what it shows by itself is a mixture and "
                        "stands for "
                        "nothing; what stands on it is right. To finish it: {}",
                        name(id), way_out))
            .of(catalog_, id);
    }

    /// The upper volume of a commit, at the switch.
    void illegal_active(const Uuid& id) {
        const Uuid below = catalog_.backing(id);
        const Uuid running_on = view_.running_on(catalog_);
        if (running_on && running_on != id) return;  // the block graph's finding
        if (running_on && view_.qemu.jobs.empty()) {
            add(FindingKind::illegal, Severity::warning,
                fmt::format("{} is marked as about to be switched away from, but QEMU runs on it and no "
                            "merge is under "
                            "way: the switch did not take place, and the mark means nothing any more",
                            name(id)))
                .of(catalog_, id)
                .mended_by(Remedy::clear_mark);
            return;
        }
        const std::string snapshots = below ? snapshots_on(catalog_, below) : std::string();
        std::string way_out = fmt::format("commit it again ('volchainctl volume commit'){}",
                                          below ? " into " + name(below) : std::string());
        if (!snapshots.empty()) way_out = fmt::format("delete {} again", snapshots);
        add(FindingKind::illegal, Severity::error,
            fmt::format("a merge of {} was broken off in the moment of its switch, and it is not settled "
                        "which volume "
                        "the guest wrote to last; do not start the VM before: {}, which settles it",
                        name(id), way_out))
            .of(catalog_, id);
    }

    void leftover(const Uuid& id) {
        if (const std::string named = named_as(catalog_, id); !named.empty()) {
            add(FindingKind::leftover, Severity::info,
                fmt::format("{} is marked as a leftover, but {}: the mark means nothing", name(id), named))
                .of(catalog_, id)
                .mended_by(Remedy::clear_mark);
            return;
        }
        const std::size_t children = catalog_.children(id).size();
        if (children > 1) {
            add(FindingKind::leftover, Severity::info,
                fmt::format("{} belongs to no snapshot any more and stays because {} volumes stand on it; it "
                            "goes when "
                            "only one is left",
                            name(id), children))
                .of(catalog_, id);
            return;
        }
        if (children == 1) {
            add(FindingKind::leftover, Severity::info,
                fmt::format("{} belongs to no snapshot any more and can be merged with {}, which stands on "
                            "it: at the "
                            "next deletion of a snapshot of the disk, or now with 'volchainctl volume merge'",
                            name(id), name(catalog_.children(id).front())))
                .of(catalog_, id);
            return;
        }
        Finding& finding =
            add(FindingKind::leftover, Severity::warning,
                fmt::format("{} belongs to no snapshot any more, and nothing stands on it: it only takes "
                            "room",
                            name(id)))
                .of(catalog_, id);
        if (view_.qemu.unknown.empty() && !view_.look(id).used && others_readable(catalog_, id))
            finding.mended_by(Remedy::drop_volume);
    }

    const Catalog& catalog_;
    const DiskView& view_;
    const DiskRecord& disk_;
    Findings& findings_;
};

}  // namespace

void find_marks(const Catalog& catalog, const DiskView& view, Findings& findings) {
    MarkFinder(catalog, view, findings).find();
}

}  // namespace volchain::storage
