// SPDX-License-Identifier: MIT
#include "storage/checks/record_findings.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"

namespace volchain::storage {
namespace {

class RecordFinder {
  public:
    RecordFinder(const Catalog& catalog, const DiskView& view, Findings& findings)
        : catalog_(catalog), view_(view), disk_(catalog.disk(view.disk)), findings_(findings) {}

    void find() {
        for (const auto& [id, state] : view_.pools) pool(id, state);
        for (const Uuid& volume : catalog_.volumes_of_disk(disk_.id)) this->volume(volume);
        for (const Uuid& layer : shared_layers()) shared_layer(layer);
        former();
        for (const auto& [id, snapshot] : catalog_.snapshots())
            for (const SnapshotDisk& part : snapshot.disks)
                if (part.disk == disk_.id) this->snapshot(snapshot, part);
    }

  private:
    [[nodiscard]] std::string name(const Uuid& id) const {
        return catalog_.describe({ObjectKind::volume, id});
    }

    Finding& add(FindingKind kind, Severity severity, std::string message) {
        return findings_.emplace_back(kind, severity, std::move(message));
    }

    // --- pools and files ---

    void pool(const Uuid& id, PoolState state) {
        const std::string what = catalog_.describe({ObjectKind::pool, id});
        if (state == PoolState::missing)
            add(FindingKind::pool, Severity::error,
                fmt::format("{} is not there: is its file system mounted? None of its volumes was looked at",
                            what))
                .at(catalog_.pool(id).path);
        if (state == PoolState::read_only)
            add(FindingKind::pool, Severity::warning,
                fmt::format("{} cannot be written: nothing in it can be mended, and nothing can go", what))
                .at(catalog_.pool(id).path);
    }

    void volume(const Uuid& id) {
        if (view_.pool(catalog_.volume(id).pool) == PoolState::missing) return;
        const VolumeFacts& facts = catalog_.facts(id);
        if (facts.state == VolumeState::missing) return missing(id);
        if (facts.state == VolumeState::corrupt)
            add(FindingKind::corruption, Severity::error,
                fmt::format("{} cannot be used: {}; bring it back from a backup", name(id), facts.problem))
                .of(catalog_, id);
        if (facts.state != VolumeState::ok) return;
        if (facts.header) features(id, *facts.header);
        if (facts.backing) backing(id, *facts.backing);
        if (const std::string& carries = view_.look(id).carries; !carries.empty())
            add(FindingKind::format, Severity::warning,
                fmt::format(
                    "{} is recorded as raw and carries the marks of {}: a guest may have written them, and "
                    "volchain always tells QEMU that it is raw; another tool must be told, too. If it never "
                    "was raw, it was imported wrongly: delete the disk's record and import it as what it is",
                    name(id), carries))
                .of(catalog_, id);
    }

    [[nodiscard]] std::string disk_name() const { return catalog_.describe({ObjectKind::disk, disk_.id}); }

    void missing(const Uuid& id) {
        const std::string needed = needed_for(catalog_, id);
        if (!needed.empty()) {
            add(FindingKind::missing, Severity::error,
                fmt::format("{} is not there, and {}; bring the file back from a backup", name(id), needed))
                .of(catalog_, id);
            return;
        }
        Finding& finding =
            add(FindingKind::missing, Severity::warning,
                fmt::format("{} is not there, and nothing needs it: its record means nothing any more",
                            name(id)))
                .of(catalog_, id);
        if (others_readable(catalog_, id) && has_neighbour(id)) finding.mended_by(Remedy::forget_volume);
    }

    /// Another volume in the same directory proves that its file system is mounted.
    [[nodiscard]] bool has_neighbour(const Uuid& id) const {
        const auto directory = [&](const Uuid& volume) {
            return std::filesystem::path(catalog_.path(catalog_.volume(volume))).parent_path();
        };
        const auto& all = catalog_.volumes();
        return std::any_of(all.begin(), all.end(), [&](const auto& other) {
            return catalog_.facts(other.first).state == VolumeState::ok &&
                   directory(other.first) == directory(id);
        });
    }

    // --- headers ---

    void features(const Uuid& id, const qcow2::Header& header) {
        if (header.features.corrupt)
            add(FindingKind::corruption, Severity::error,
                fmt::format(
                    "QEMU has found damage in {} and marked it corrupt: it opens it for reading only; copy "
                    "what can be read, or bring it back from a backup ('qemu-img check -r all' on a copy may "
                    "help)",
                    name(id)))
                .of(catalog_, id);
        // Of an image that is open for writing that is as it should be.
        if (header.features.dirty && !view_.look(id).written)
            add(FindingKind::dirty, Severity::warning,
                fmt::format(
                    "{} was not closed in order, and its reference counts lag behind (lazy refcounts): QEMU "
                    "sets them right when it opens it for writing the next time; it was not checked further",
                    name(id)))
                .of(catalog_, id);
        if (header.features.external_data_file)
            add(FindingKind::header, Severity::error,
                fmt::format(
                    "{} names a data file, {}, which whoever opens the image opens with it; that is nothing "
                    "that volchain makes: find out who did",
                    name(id), quote(header.data_file.value_or(""))))
                .of(catalog_, id);
        if (header.stale_bitmaps)
            add(FindingKind::bitmap, Severity::info,
                fmt::format(
                    "the bitmaps in {} are void: a program that does not know of bitmaps has written to it; "
                    "the next backup is a full one",
                    name(id)))
                .of(catalog_, id);
    }

    void backing(const Uuid& id, const BackingReference& reference) {
        const std::string file = quote(reference.name);
        if (reference.path.empty()) {
            add(FindingKind::header, Severity::error,
                fmt::format(
                    "{} names {} as its backing file, which is no plain path: QEMU opens whatever that says; "
                    "give it the right one with 'qemu-img rebase -u'",
                    name(id), file))
                .of(catalog_, id);
            return;
        }
        if (reference.format.empty())
            add(FindingKind::header, Severity::warning,
                fmt::format(
                    "{} does not say which format its backing file {} has: who opens it by its name alone "
                    "guesses, and a guest can make a raw image look like another; set it with 'qemu-img "
                    "rebase -u -b FILE -F FORMAT IMAGE'",
                    name(id), file))
                .of(catalog_, id);
        const Uuid below = catalog_.backing(id);
        if (below.nil()) return foreign(id, file);
        known_backing(id, below, reference);
    }

    void foreign(const Uuid& id, const std::string& file) {
        if (view_.look(id).backing_file)
            add(FindingKind::foreign, Severity::warning,
                fmt::format(
                    "{} stands on {}, which is no volume: it is neither looked after nor kept from being "
                    "removed; import it ('volchainctl disk import')",
                    name(id), file))
                .of(catalog_, id);
        else
            add(FindingKind::foreign, Severity::error,
                fmt::format(
                    "{} stands on {}, which is not there and is no volume; bring it back, or set the right "
                    "name with 'qemu-img rebase -u -b FILE -F FORMAT IMAGE'",
                    name(id), file))
                .of(catalog_, id);
    }

    void known_backing(const Uuid& id, const Uuid& below, const BackingReference& reference) {
        const VolumeRecord& record = catalog_.volume(below);
        if (!reference.format.empty() && reference.format != word(record.format))
            add(FindingKind::header, Severity::error,
                fmt::format(
                    "{} says that its backing file {} is {}, but that is recorded as {}: read as the wrong "
                    "one it shows nonsense; set it right with 'qemu-img rebase -u -b FILE -F FORMAT IMAGE'",
                    name(id), name(below), quote(reference.format), word(record.format)))
                .of(catalog_, id);
        if (comes_back(id))
            add(FindingKind::header, Severity::error,
                fmt::format("{} stands on itself: its backing files lead back to it, and nothing can open "
                            "it; set the "
                            "right one with 'qemu-img rebase -u -b FILE -F FORMAT IMAGE'",
                            name(id)))
                .of(catalog_, id);
        const VolumeFacts& lower = catalog_.facts(below);
        if (lower.state == VolumeState::ok && catalog_.facts(id).size < lower.size)
            add(FindingKind::size, Severity::warning,
                fmt::format("{} has {} bytes, but {}, which it stands on, {}: what is beyond is not shown. "
                            "If that was "
                            "not wanted, make the disk larger again ('volchainctl disk resize')",
                            name(id), catalog_.facts(id).size, name(below), lower.size))
                .of(catalog_, id);
    }

    [[nodiscard]] bool comes_back(const Uuid& id) const {
        const std::vector<Uuid> chain = catalog_.chain(id);
        return catalog_.backing(chain.back()) == id;
    }

    /// Volumes of other disks that this one stands on.
    [[nodiscard]] std::set<Uuid> shared_layers() const {
        std::set<Uuid> shared;
        for (const Uuid& volume : catalog_.volumes_of_disk(disk_.id))
            for (const Uuid& layer : catalog_.chain(volume))
                if (catalog_.volume(layer).disk != disk_.id) shared.insert(layer);
        return shared;
    }

    void shared_layer(const Uuid& id) {
        const VolumeFacts& facts = catalog_.facts(id);
        if (facts.state == VolumeState::ok) return;
        const std::string owner = catalog_.describe({ObjectKind::disk, catalog_.volume(id).disk});
        const bool gone = facts.state == VolumeState::missing;
        add(gone ? FindingKind::missing : FindingKind::corruption, Severity::error,
            fmt::format("{} of {}, which this disk stands on, cannot be used: {}; check that disk", name(id),
                        owner, facts.problem))
            .of(catalog_, id);
    }

    // --- the disk and its snapshots ---

    void former() {
        if (disk_.former.nil()) return;
        const auto vm = catalog_.vms().find(disk_.vm);
        if (vm != catalog_.vms().end() && vm->second.preview) return;
        add(FindingKind::record, Severity::warning,
            fmt::format("{} remembers {} as its volume before a preview, but none is shown: it stays as a "
                        "branch that "
                        "nothing leads to",
                        disk_name(), name(disk_.former)))
            .of(catalog_, disk_.former)
            .mended_by(Remedy::forget_former);
    }

    void snapshot(const SnapshotRecord& snapshot, const SnapshotDisk& part) {
        const std::string what = catalog_.describe({ObjectKind::snapshot, snapshot.id});
        if (snapshot.status == SnapshotStatus::failed)
            add(FindingKind::snapshot, Severity::warning,
                fmt::format("the deletion of {} ended halfway: delete it again", what));
        const bool passing =
            snapshot.status == SnapshotStatus::deleting || snapshot.status == SnapshotStatus::creating;
        if (passing && !view_.planned.contains(snapshot.id.str()))
            add(FindingKind::snapshot, Severity::warning,
                fmt::format("{} is recorded as just being {}, but no job does that: it can only be deleted",
                            what, snapshot.status == SnapshotStatus::deleting ? "deleted" : "created"))
                .mended_by(Remedy::fail_snapshot, snapshot.id.str());
        for (const SnapshotFile& file : snapshot.files) missing_file(what, file);
        if (!catalog_.has({ObjectKind::volume, part.volume})) {
            add(FindingKind::snapshot, Severity::error,
                fmt::format(
                    "{} names a volume of {} that there is no record of ({}): what it held of this disk is "
                    "lost; delete it",
                    what, disk_name(), part.volume.str()));
            return;
        }
        if (part.volume == disk_.active)
            add(FindingKind::snapshot, Severity::error,
                fmt::format(
                    "{} names {}, which is the active volume of {}: what the guest writes changes the "
                    "snapshot; cover it with a new one ('volchainctl disk overlay')",
                    what, name(part.volume), disk_name()))
                .of(catalog_, part.volume);
    }

    void missing_file(const std::string& what, const SnapshotFile& file) {
        const std::string path = catalog_.pool(file.pool).path + "/" + file.file;
        if (!view_.missing_files.contains(path)) return;
        const bool memory = file.kind == SnapshotFileKind::memory;
        add(FindingKind::missing, Severity::error,
            fmt::format("{} of {} is not there: its disks are whole, and it can be shown without; bring the "
                        "file back "
                        "from a backup",
                        memory ? "the memory" : "the copy of variable store " + quote(file.store), what))
            .at(path);
    }

    const Catalog& catalog_;
    const DiskView& view_;
    const DiskRecord& disk_;
    Findings& findings_;
};

}  // namespace

void find_in_records(const Catalog& catalog, const DiskView& view, Findings& findings) {
    RecordFinder(catalog, view, findings).find();
}

}  // namespace volchain::storage
