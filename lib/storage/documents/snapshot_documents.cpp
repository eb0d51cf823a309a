// SPDX-License-Identifier: MIT
#include "storage/documents/snapshot_documents.h"

#include <algorithm>

#include "base/text.h"
#include "storage/documents/snapshot_xml.h"
#include "storage/memory/memory_file.h"
#include "storage/records/preview_state.h"
#include "storage/records/snapshot_file.h"
#include "storage/snapshots/snapshots.h"
#include "storage/vms/nvram.h"

namespace volchain::storage {
namespace {

// --- out ---------------------------------------------------------------------------------------------

void check_can_be_told(const Catalog& catalog, const SnapshotRecord& snapshot) {
    const std::string who = catalog.describe({ObjectKind::snapshot, snapshot.id});
    if (snapshot.status == SnapshotStatus::creating || snapshot.status == SnapshotStatus::deleting)
        throw Error(ErrorCode::busy, "{} is {}", who,
                    snapshot.status == SnapshotStatus::creating ? "being made" : "being deleted");
    if (snapshot.status == SnapshotStatus::failed)
        throw Error(ErrorCode::unsupported, "{} was left half deleted; it can only be deleted", who);
}

std::string libvirt_state(const SnapshotRecord& snapshot) {
    if (snapshot.vm_state == VmState::shutoff) return "shutoff";
    if (snapshot.vm_state == VmState::crashed) return "crashed";
    // Which has no memory.
    if (memory_of(snapshot) == nullptr) return "disk-snapshot";
    return snapshot.vm_state == VmState::running ? "running" : "paused";
}

std::string file_path(const Catalog& catalog, const SnapshotFile& file) {
    return catalog.pool(file.pool).path + "/" + file.file;
}

bool belongs_to(const Catalog& catalog, const std::string& path, const Uuid& disk) {
    const VolumeRecord* volume = catalog.find_volume(path);
    return volume != nullptr && volume->disk == disk;
}

/// What libvirt calls the disk: as the VM's configuration does, or by our own target, or by path.
std::string libvirt_disk_name(const Catalog& catalog, const SnapshotDisk& part,
                              const std::optional<XmlDomain>& domain) {
    const bool known = catalog.has({ObjectKind::disk, part.disk});
    const std::string target = known ? catalog.disk(part.disk).target : std::string();
    if (domain)
        for (const auto& disk : domain->disks)
            if ((!disk.serial.empty() && disk.serial == target) ||
                belongs_to(catalog, disk.source, part.disk))
                return disk.target;
    if (is_libvirt_target(target)) return target;
    return catalog.path(catalog.volume(part.volume));
}

/// The volume that covers what the snapshot holds, on the way to what is active where there are several.
Uuid covering(const Catalog& catalog, const SnapshotDisk& part) {
    const std::vector<Uuid> children = catalog.children(part.volume);
    if (catalog.has({ObjectKind::disk, part.disk}))
        for (const Uuid& layer : catalog.chain(catalog.disk(part.disk).active))
            if (std::find(children.begin(), children.end(), layer) != children.end()) return layer;
    return children.empty() ? Uuid{} : children.front();
}

XmlSnapshotDisk disk_element(const Catalog& catalog, const SnapshotDisk& part,
                             const std::optional<XmlDomain>& domain) {
    XmlSnapshotDisk disk;
    disk.name = libvirt_disk_name(catalog, part, domain);
    disk.mode = "external";
    disk.type = "file";
    const Uuid cover = covering(catalog, part);
    if (cover.nil()) return disk;
    disk.format = word(catalog.volume(cover).format);
    disk.source = catalog.path(catalog.volume(cover));
    return disk;
}

XmlOwnPart own_part(const Catalog& catalog, const SnapshotRecord& snapshot) {
    XmlOwnPart own;
    own.id = snapshot.id;
    own.description = snapshot.description;
    own.created_usec = to_usec(snapshot.created);
    own.vm_state = word(snapshot.vm_state);
    own.consistency = word(snapshot.consistency);
    own.origin = snapshot.origin;
    own.current = snapshot.vm && catalog.vm(snapshot.vm).current_snapshot == snapshot.id;
    for (const SnapshotDisk& part : snapshot.disks)
        own.disks.push_back({part.disk, part.volume, catalog.path(catalog.volume(part.volume))});
    for (const ExcludedDisk& part : snapshot.excluded) own.excluded.push_back({part.disk, part.why});
    for (const SnapshotFile& file : snapshot.files)
        if (file.kind == SnapshotFileKind::nvram) own.nvram.push_back({file.store, file_path(catalog, file)});
    own.config = snapshot.config;
    own.config_type = snapshot.config_type;
    return own;
}

// --- in ----------------------------------------------------------------------------------------------

class DocumentImport {
  public:
    DocumentImport(const Catalog& catalog, const Uuid& vm, SnapshotXml xml)
        : catalog_(catalog), vm_(vm), xml_(std::move(xml)) {}

    /// Throws where the document does not fit the VM.
    [[nodiscard]] SnapshotRecord snapshot() {
        check();
        SnapshotRecord record;
        record.vm = vm_;
        record.name = xml_.name;
        record.description = xml_.description;
        record.parent = parent();
        if (xml_.own)
            take_own(record);
        else
            take_foreign(record);
        check_disks(record);
        take_files(record);
        record.status = record.excluded.empty() ? SnapshotStatus::ok : SnapshotStatus::partial;
        return record;
    }

    /// What is kept of it: volumes that were left over when their snapshot went are one's again.
    [[nodiscard]] Changes changes(const SnapshotRecord& record, bool current) const {
        Changes changes;
        for (const SnapshotDisk& part : record.disks) {
            VolumeRecord volume = catalog_.volume(part.volume);
            if (volume.mark == VolumeMark::none) continue;
            volume.mark = VolumeMark::none;
            changes.put(std::move(volume));
        }
        changes.put(record).put(ManifestStale{vm_, true});
        if (current) {
            check_current(record);
            VmRecord vm = catalog_.vm(vm_);
            vm.current_snapshot = record.id;
            changes.put(std::move(vm));
        }
        return changes;
    }

    [[nodiscard]] bool says_current() const { return xml_.active || (xml_.own && xml_.own->current); }

  private:
    template <typename... Args>
    [[noreturn]] void refuse(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) const {
        throw Error(code, "snapshot document {} for {}: {}", quote(xml_.name),
                    catalog_.describe({ObjectKind::vm, vm_}),
                    fmt::format(format, std::forward<Args>(args)...));
    }

    void check() const {
        if (xml_.name.empty()) refuse(ErrorCode::invalid_argument, "it has no <name>");
        check_snapshot_name(catalog_, vm_, xml_.name);
        check_description(xml_.description);
        if (xml_.domain && *xml_.domain != vm_)
            refuse(ErrorCode::invalid_argument, "it is of the domain {}", xml_.domain->str());
        if (xml_.memory == "internal")
            refuse(ErrorCode::unsupported,
                   "it has its memory inside an image, which cannot be taken over; without <memory> its "
                   "disks can");
        if (xml_.memory == "external" && xml_.memory_file.empty())
            refuse(ErrorCode::invalid_argument,
                   "its <memory> names no file; without <memory> its disks can be taken");
        if (!xml_.created_sec && !xml_.own)
            refuse(ErrorCode::invalid_argument,
                   "it has no <creationTime>: it tells of a snapshot to be made, not of one that is there");
    }

    [[nodiscard]] Uuid parent() const {
        if (xml_.parent.empty()) return {};
        for (const Uuid& id : catalog_.snapshots_of_vm(vm_))
            if (catalog_.snapshot(id).name == xml_.parent) return id;
        refuse(ErrorCode::not_found, "its parent {} is not there; import that first", quote(xml_.parent));
    }

    template <typename E>
    [[nodiscard]] E word_of(const std::string& text, std::string_view what) const {
        const auto value = from_word<E>(text);
        if (!value) refuse(ErrorCode::invalid_argument, "{} is not a {}", quote(text), what);
        return *value;
    }

    void take_own(SnapshotRecord& record) const {
        const XmlOwnPart& own = *xml_.own;
        record.id = own.id;
        if (record.id.nil()) refuse(ErrorCode::invalid_argument, "the nil UUID is no id");
        if (catalog_.has({ObjectKind::snapshot, record.id}))
            refuse(ErrorCode::already_exists, "there is a snapshot with its id {}", record.id.str());
        record.description = own.description;
        check_description(record.description);
        record.created = from_usec(own.created_usec);
        record.vm_state = word_of<VmState>(own.vm_state, "state of a VM");
        record.consistency = word_of<Consistency>(own.consistency, "consistency");
        if (own.origin != "user" && own.origin != "schedule" && own.origin != "backup")
            refuse(ErrorCode::invalid_argument, "{} is not an origin", quote(own.origin));
        record.origin = own.origin;
        record.config = own.config;
        record.config_type = own.config_type;
        for (const XmlLeftOutDisk& disk : own.excluded) record.excluded.push_back({disk.disk, disk.why});
        for (const XmlOwnDisk& disk : own.disks) {
            const VolumeRecord* volume = catalog_.find_volume(disk.file);
            if (catalog_.has({ObjectKind::volume, disk.volume})) volume = &catalog_.volume(disk.volume);
            if (volume == nullptr) refuse(ErrorCode::not_found, "there is no volume {}", quote(disk.file));
            record.disks.push_back({volume->disk, volume->id});
        }
    }

    void take_foreign(SnapshotRecord& record) const {
        record.id = Uuid::make();
        record.created = Timestamp(std::chrono::seconds(*xml_.created_sec % max_seconds));
        record.vm_state = foreign_state();
        record.consistency = record.vm_state == VmState::shutoff ? Consistency::offline : Consistency::crash;
        if (xml_.memory == "external") record.consistency = Consistency::memory;
        record.config = xml_.domain_xml;
        if (!record.config.empty()) record.config_type = "application/xml";
        for (const XmlSnapshotDisk& disk : xml_.disks) take_foreign_disk(disk, record);
    }

    [[nodiscard]] VmState foreign_state() const {
        const std::string& state = xml_.state;
        if (state == "running" || state == "blocked" || state == "disk-snapshot") return VmState::running;
        if (state == "paused") return VmState::paused;
        if (state == "shutdown" || state == "shutoff") return VmState::shutoff;
        if (state == "crashed") return VmState::crashed;
        refuse(ErrorCode::invalid_argument, "{} is not a <state>", quote(state));
    }

    [[nodiscard]] SnapshotFile file_at(SnapshotFileKind kind, const std::string& path) const {
        const auto place = catalog_.place(path);
        if (!place) refuse(ErrorCode::not_found, "{} is in no pool", quote(path));
        if (const Uuid other = snapshot_with_file(catalog_, path))
            refuse(ErrorCode::already_exists, "{} is that of {}", quote(path),
                   catalog_.describe({ObjectKind::snapshot, other}));
        if (catalog_.find_volume(path) != nullptr)
            refuse(ErrorCode::invalid_argument, "{} is a volume", quote(path));
        return {kind, place->pool, place->file, 0, ""};
    }

    /// Without memory it is what a snapshot of the disks alone would have been.
    void take_files(SnapshotRecord& record) const {
        if (xml_.memory == "external")
            record.files.push_back(file_at(SnapshotFileKind::memory, xml_.memory_file));
        else if (record.consistency == Consistency::memory)
            record.consistency = Consistency::crash;
        if (!xml_.own) return;
        for (const XmlOwnNvram& copy : xml_.own->nvram) {
            // It goes with the snapshot: nothing else is to be taken for one.
            if (copy.file.rfind(".nvram") == std::string::npos)
                refuse(ErrorCode::invalid_argument, "{} has no name of a copy of a variable store",
                       quote(copy.file));
            record.files.push_back(file_at(SnapshotFileKind::nvram, copy.file));
            record.files.back().store = copy.store;
        }
    }

    void take_foreign_disk(const XmlSnapshotDisk& disk, SnapshotRecord& record) const {
        const Uuid known = disk_called(disk.name);
        if (disk.mode == "no" || disk.mode == "manual") {
            record.excluded.push_back(
                {known,
                 fmt::format("disk {}: {}", quote(disk.name),
                             disk.mode == "no" ? "not in the snapshot" : "another tool keeps its content")});
            return;
        }
        if (disk.mode == "internal")
            refuse(ErrorCode::unsupported,
                   "disk {} has it inside its image, and only chains of images are kept", quote(disk.name));
        if (disk.type != "file" || disk.source.empty())
            refuse(ErrorCode::unsupported,
                   "disk {} names no file that covers its content (<source file=...>)", quote(disk.name));
        const VolumeRecord* cover = catalog_.find_volume(disk.source);
        if (cover == nullptr) refuse(ErrorCode::not_found, "there is no volume {}", quote(disk.source));
        if (known && cover->disk != known)
            refuse(ErrorCode::invalid_argument, "volume {} is not of disk {}", quote(disk.source),
                   quote(disk.name));
        const Uuid content = catalog_.backing(cover->id);
        if (content.nil())
            refuse(ErrorCode::broken_chain, "volume {} covers no other volume", quote(disk.source));
        record.disks.push_back({cover->disk, content});
    }

    [[nodiscard]] Uuid disk_called(const std::string& name) const {
        const auto domain = read_domain_xml(xml_.domain_xml);
        for (const Uuid& id : catalog_.disks_of_vm(vm_)) {
            const DiskRecord& disk = catalog_.disk(id);
            if (disk.target == name || disk.name == name || belongs_to(catalog_, name, id)) return id;
            if (!domain) continue;
            for (const auto& told : domain->disks)
                if (told.target == name && ((!told.serial.empty() && told.serial == disk.target) ||
                                            belongs_to(catalog_, told.source, id)))
                    return id;
        }
        return {};
    }

    /// A snapshot's volume stays as it is: it is not the one that the VM writes to, and it stands on its parent's.
    void check_disks(const SnapshotRecord& record) const {
        if (record.disks.empty()) refuse(ErrorCode::invalid_argument, "no disk is in it");
        for (const SnapshotDisk& part : record.disks) {
            const std::string who = catalog_.describe({ObjectKind::volume, part.volume});
            const DiskRecord& disk = catalog_.disk(part.disk);
            if (disk.vm != vm_) refuse(ErrorCode::invalid_argument, "{} is not of a disk of this VM", who);
            if (disk.active == part.volume)
                refuse(ErrorCode::invalid_argument, "{} is the one that the VM writes to", who);
            if (catalog_.volume(part.volume).mark == VolumeMark::illegal)
                refuse(ErrorCode::broken_chain, "{} stands for nothing by itself: a merge was left half done",
                       who);
            const auto same_disk = [&part](const SnapshotDisk& other) { return other.disk == part.disk; };
            if (std::count_if(record.disks.begin(), record.disks.end(), same_disk) > 1)
                refuse(ErrorCode::invalid_argument, "{} is in it twice",
                       catalog_.describe({ObjectKind::disk, part.disk}));
            check_not_taken(part);
            check_stands_on_parent(record, part);
        }
    }

    void check_not_taken(const SnapshotDisk& part) const {
        for (const auto& [id, other] : catalog_.snapshots())
            if (std::find(other.disks.begin(), other.disks.end(), part) != other.disks.end())
                refuse(ErrorCode::already_exists, "{} is that of {}",
                       catalog_.describe({ObjectKind::volume, part.volume}),
                       catalog_.describe({ObjectKind::snapshot, id}));
    }

    void check_stands_on_parent(const SnapshotRecord& record, const SnapshotDisk& part) const {
        if (record.parent.nil()) return;
        const std::vector<Uuid> chain = catalog_.chain(part.volume);
        for (const SnapshotDisk& below : catalog_.snapshot(record.parent).disks)
            if (below.disk == part.disk && std::find(chain.begin(), chain.end(), below.volume) == chain.end())
                refuse(ErrorCode::broken_chain, "{} does not stand on {}, the volume of its parent",
                       catalog_.describe({ObjectKind::volume, part.volume}),
                       catalog_.describe({ObjectKind::volume, below.volume}));
    }

    void check_current(const SnapshotRecord& record) const {
        for (const SnapshotDisk& part : record.disks) {
            const std::vector<Uuid> chain = catalog_.chain(catalog_.disk(part.disk).active);
            if (std::find(chain.begin(), chain.end(), part.volume) == chain.end())
                refuse(ErrorCode::invalid_argument, "it cannot be the current one: {} does not stand on it",
                       catalog_.describe({ObjectKind::disk, part.disk}));
        }
    }

    /// Far beyond any date, and small enough for microseconds.
    static constexpr std::uint64_t max_seconds = 1ULL << 40;

    const Catalog& catalog_;
    Uuid vm_;
    SnapshotXml xml_;
};

}  // namespace

std::string snapshot_document(const Catalog& catalog, const Uuid& id) {
    const SnapshotRecord& snapshot = catalog.snapshot(id);
    check_can_be_told(catalog, snapshot);
    SnapshotXml xml;
    xml.name = snapshot.name;
    xml.description = snapshot.description;
    xml.state = libvirt_state(snapshot);
    xml.created_sec = to_usec(snapshot.created) / 1'000'000;
    if (snapshot.parent) xml.parent = catalog.snapshot(snapshot.parent).name;
    const SnapshotFile* const memory = memory_of(snapshot);
    xml.memory = memory == nullptr ? "no" : "external";
    if (memory != nullptr) xml.memory_file = file_path(catalog, *memory);
    std::optional<XmlDomain> domain = read_domain_xml(snapshot.config);
    if (domain && domain->uuid != snapshot.vm) domain.reset();
    if (snapshot.vm) xml.domain = snapshot.vm;
    if (domain) xml.domain_xml = snapshot.config;
    for (const SnapshotDisk& part : snapshot.disks) xml.disks.push_back(disk_element(catalog, part, domain));
    xml.own = own_part(catalog, snapshot);
    return format_snapshot_xml(xml);
}

namespace {

/// That they can be read, and how large they are. Blocking.
std::vector<SnapshotFile> looked_at(std::vector<std::pair<std::string, SnapshotFile>> files) {
    std::vector<SnapshotFile> all;
    for (auto& [pool, file] : files) {
        if (file.kind == SnapshotFileKind::memory) (void)open_memory(pool, file.file);
        file.bytes = file_bytes(pool, file.file);
        if (file.kind == SnapshotFileKind::nvram) (void)read_copy(pool, file);
        all.push_back(std::move(file));
    }
    return all;
}

async::Task<std::vector<SnapshotFile>> look_at_files(Engine& engine, std::vector<SnapshotFile> files) {
    std::vector<std::pair<std::string, SnapshotFile>> located;
    for (SnapshotFile& file : files)
        located.emplace_back(engine.catalog().pool(file.pool).path, std::move(file));
    auto look = [located = std::move(located)] { return looked_at(located); };
    co_return co_await engine.files().run(std::move(look));
}

}  // namespace

async::Task<Uuid> import_snapshot_document(Engine& engine, Uuid vm, std::string xml,
                                           std::optional<bool> current) {
    (void)engine.catalog().vm(vm);
    DocumentImport import(engine.catalog(), vm, parse_snapshot_xml(xml));
    (void)co_await engine.ready_to_work(vm);
    check_no_preview(engine.catalog(), vm);
    const auto held =
        engine.locks().take(vm_with_disks(engine.catalog(), vm), "a snapshot being imported", Uuid{});
    SnapshotRecord record = import.snapshot();
    std::vector<SnapshotFile> files = co_await look_at_files(engine, record.files);
    record.files = std::move(files);
    Changes changes = import.changes(record, current.value_or(import.says_current()));
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
    co_return record.id;
}

}  // namespace volchain::storage
