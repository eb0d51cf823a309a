// SPDX-License-Identifier: MIT
#include "client/disk_backup.h"

#include "base/failpoint.h"
#include "base/text.h"
#include "client/image_tool.h"

namespace volchain::client {
namespace {

constexpr std::uint32_t zero_flag = 2;   // base:allocation
constexpr std::uint32_t dirty_flag = 1;  // qemu:dirty-bitmap

/// Keeps the digests of what is copied.
class DigestRecorder : public DigestTaker {
  public:
    explicit DigestRecorder(DigestListWriter& list) : list_(list) {}
    void take(const Piece& piece, std::span<const Digest> digests) override {
        list_.put(piece.slot, digests);
    }

  private:
    DigestListWriter& list_;
};

std::string in_step(const char* what, const SavedDisk& disk) {
    return fmt::format("{} {}", what, disk.name);
}

}  // namespace

std::string unfit_to_stand_on(const BackupDirectory& directory, const BackupCatalog& catalog,
                              const SavedMoment& moment, const SavedDisk& disk) {
    const auto chain = catalog.chain(moment, disk);
    if (chain.size() >= longest_chain)
        return fmt::format("it would be one of more than {} files", chain.size());
    for (const SavedDisk* part : chain) {
        const auto length = directory.length_of(part->file);
        if (!length) return fmt::format("{} is not there", quote(part->file));
        if (*length != part->file_bytes)
            return fmt::format("{} has {} bytes, not {}", quote(part->file), *length, part->file_bytes);
    }
    try {
        const MomentDigests digests(digest_lists(directory, catalog, moment, disk));
        if (digests.disk_size() == disk.size) return {};
        return fmt::format("{} is of a disk of another size", quote(disk.digests));
    } catch (const Error& error) {
        return error.what();
    }
}

std::vector<std::shared_ptr<const DigestList>> digest_lists(const BackupDirectory& directory,
                                                            const BackupCatalog& catalog,
                                                            const SavedMoment& moment,
                                                            const SavedDisk& disk) {
    std::vector<std::shared_ptr<const DigestList>> lists;
    for (const SavedDisk* part : catalog.chain(moment, disk))
        lists.push_back(std::make_shared<const DigestList>(directory.open(part->digests), part->digests));
    return lists;
}

async::Task<SavedDisk> DiskBackup::run(HeldMoment& held, std::size_t number, SavedDisk saved) {
    co_await plan(held, number, saved);
    co_await copy(saved);
    co_await compare(saved);
    co_await sum_up(saved);
    co_return saved;
}

async::Task<> DiskBackup::plan(HeldMoment& held, std::size_t number, SavedDisk& saved) {
    const HeldDisk disk = held.disks()[number];
    const std::size_t asking = disk.incremental ? 2 : 1;
    ImageSockets opened = co_await held.open(number, asking, useful_connections());
    auto sockets = std::make_shared<ImageSockets>(std::move(opened));
    source_ = std::make_shared<Source>();
    const SavedDisk* below = base_ == nullptr || !disk.incremental ? nullptr : base_->disk(disk.id);
    auto work = [this, disk, sockets, below, why = disk.why] {
        const std::string what = "disk " + quote(disk.name);
        NbdConnection zeroes(std::move(sockets->asking[0]), disk.export_name, "base:allocation", what);
        // A server drops a connection that does not negotiate soon: all do, before anything takes its time.
        std::optional<NbdConnection> changes;
        if (disk.incremental)
            changes.emplace(std::move(sockets->asking[1]), disk.export_name, disk.bitmap, what);
        source_->readers = connect_for_copy(std::move(sockets->copying), disk.export_name, what);
        failpoint("backup-run.connected");
        source_->size = zeroes.size();
        std::string full_because = why;
        if (below != nullptr) {
            full_because = below->size == source_->size
                               ? unfit_to_stand_on(directory_, catalog_, *base_, *below)
                               : std::string("it had another size");
        } else if (disk.incremental) {
            full_because = fmt::format("moment {} has no such disk", base_ == nullptr ? "" : base_->id);
        }
        const bool incremental = disk.incremental && full_because.empty();
        BlockSet wanted(blocks_of(source_->size));
        if (incremental)
            wanted = changes->blocks_where([](std::uint32_t flags) { return (flags & dirty_flag) != 0; },
                                           work_.stop());
        const BlockSet data =
            zeroes.blocks_where([](std::uint32_t flags) { return (flags & zero_flag) == 0; }, work_.stop());
        // What is zero of a full one needs not be said.
        source_->runs = plan_runs(incremental ? wanted : data, data);
        return std::make_pair(incremental, full_because);
    };
    auto [incremental, full_because] = co_await work_.run(in_step("look at", saved), std::move(work));
    saved.size = source_->size;
    saved.why = full_because;
    if (incremental) saved.on = base_->id;
}

async::Task<> DiskBackup::copy(SavedDisk& saved) {
    const SavedDisk* below = saved.full() ? nullptr : base_->disk(saved.id);
    const std::string part = directory_.path_of(BackupDirectory::part_of(saved.file));
    auto make = [this, file = saved.file] { (void)directory_.make_part(file); };
    co_await work_.run(std::move(make));
    std::string backing;
    if (below != nullptr) backing = below->file;
    co_await create_image(part, saved.size, std::move(backing));
    std::vector<std::string> files{part};
    auto server = co_await ImageServer::start(std::move(files), true, quote(part));
    auto sockets = std::make_shared<ImageSockets>(sockets_of(*server, 0, source_->readers.size()));
    auto work = [this, sockets, file = saved.file, digests = saved.digests, full = saved.full()] {
        Connections writers =
            connect_for_copy(std::move(sockets->copying), ImageServer::export_name, quote(file));
        source_->readers.resize(std::min(source_->readers.size(), writers.size()));
        DigestListWriter list(directory_.make_part(digests), directory_.path_of(digests), source_->size,
                              source_->runs);
        DigestRecorder recorder(list);
        CopyPlan plan;
        plan.runs = &source_->runs;
        plan.size = source_->size;
        plan.sources = &source_->readers;
        plan.targets = &writers;
        plan.write_zeroes = !full;
        work_.progress().total = bytes_to_copy(plan);
        copy_blocks(plan, recorder, work_.progress(), work_.stop());
        failpoint("backup-run.copied");
        writers.front()->flush(work_.stop());
        list.finish();
        source_->readers.clear();
    };
    co_await work_.run_over(std::move(server), in_step("copy", saved), std::move(work));
    auto flush = [this, file = saved.file] { return directory_.flush_part(file); };
    saved.file_bytes = co_await work_.run(std::move(flush));
    saved.data_bytes = count_blocks(source_->runs, BlockKind::data) * block_bytes;
}

async::Task<> DiskBackup::compare(SavedDisk& saved) {
    const std::string part = directory_.path_of(BackupDirectory::part_of(saved.file));
    std::vector<std::string> files{part};
    auto server = co_await ImageServer::start(std::move(files), false, quote(part));
    auto sockets = std::make_shared<ImageSockets>(sockets_of(*server, 2, useful_connections()));
    auto work = [this, sockets, digests = saved.digests, full = saved.full()] {
        list_ =
            std::make_shared<const DigestList>(directory_.open(BackupDirectory::part_of(digests)), digests);
        std::vector<std::shared_ptr<const DigestList>> lists{list_};
        const MomentDigests expected(std::move(lists));
        return compare_image(std::move(*sockets), expected, full, work_.progress(), work_.stop());
    };
    const std::vector<std::string> problems =
        co_await work_.run_over(std::move(server), in_step("verify", saved), std::move(work));
    if (!problems.empty())
        throw Error(
            ErrorCode::corrupt_image,
            "{} does not hold what was read from disk {}: {}. Is the medium, or the memory of this host, "
            "damaged?",
            quote(directory_.path_of(saved.file)), quote(saved.name), joined(problems, "; "));
}

async::Task<> DiskBackup::sum_up(SavedDisk& saved) {
    auto work = [this, list = list_, id = saved.id, full = saved.full()] {
        std::vector<std::shared_ptr<const DigestList>> lists{list};
        if (!full) {
            const auto below = digest_lists(directory_, catalog_, *base_, *base_->disk(id));
            lists.insert(lists.end(), below.begin(), below.end());
        }
        return MomentDigests(std::move(lists)).checksum();
    };
    saved.checksum = co_await work_.run(std::move(work));
}

}  // namespace volchain::client
