// SPDX-License-Identifier: MIT
#include "client/backup_run.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "base/timestamp.h"
#include "base/uuid.h"
#include "client/backup_directory.h"
#include "client/backup_work.h"
#include "client/disk_backup.h"
#include "client/find_in_vm.h"
#include "client/held_moment.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

/// What the checkpoints of a chain begin with: consumers of the same VM tell theirs by that.
std::string checkpoint_prefix(const BackupCatalog& catalog) {
    return fmt::format("backup-{}.", catalog.id.substr(0, 8));
}

/// "20260329T015959Z", and a number where there is one already: QEMU takes a name with ':' for a protocol.
std::string new_moment_id(const BackupCatalog& catalog) {
    std::string id = format_utc(now());
    std::erase_if(id, [](char c) { return c == '-' || c == ':'; });
    const std::string first = id;
    for (int number = 2; catalog.moment(id) != nullptr; ++number) id = fmt::format("{}-{}", first, number);
    return id;
}

std::size_t count_to_keep(const std::string& text) {
    std::size_t count = 0;
    const char* const end = text.data() + text.size();
    if (std::from_chars(text.data(), end, count).ptr != end || count == 0)
        throw UsageError("--keep: {} is no number of moments", quote(text));
    return count;
}

/// Moments of disks that can hold none have none.
const SavedMoment* newest_with_checkpoint(const BackupCatalog& catalog) {
    const auto found = std::find_if(catalog.moments.rbegin(), catalog.moments.rend(),
                                    [](const SavedMoment& moment) { return !moment.checkpoint.empty(); });
    return found == catalog.moments.rend() ? nullptr : &*found;
}

class BackupRun {
  public:
    BackupRun(Session& session, const Arguments& arguments)
        : session_(session), arguments_(arguments), work_(session, "backup"), held_(work_) {}

    async::Task<> run() {
        check_arguments();
        require_image_programs();
        vm_path_ = co_await session_.find("vm", arguments_.at(0));
        vm_ = co_await session_.object(vm_path_);
        co_await open_directory_of_backups();
        co_await make_room();
        choose_base();
        std::exception_ptr failure;
        co_await async::keep_failure(take(), failure);
        if (failure) {
            co_await take_back(failure);
            // What else failed then, failed because of that.
            work_.stop().throw_if_asked();
            std::rethrow_exception(failure);
        }
        co_await tidy_up();
        print();
    }

  private:
    void check_arguments() const {
        if (!session_.settings().wait)
            throw UsageError("--no-wait is for jobs; this is done by volchainctl itself");
        if (arguments_.flag("full") && arguments_.flag("require-incremental"))
            throw UsageError("--full and --require-incremental exclude each other");
        if (arguments_.flag("full") && arguments_.value("since"))
            throw UsageError("--full and --since exclude each other");
        if (const auto keep = arguments_.value("keep")) (void)count_to_keep(*keep);
    }

    async::Task<> open_directory_of_backups() {
        auto work = [path = arguments_.at(1), vm = vm_.text("Id")] {
            auto directory = std::make_unique<BackupDirectory>(path, BackupDirectory::Use::write, true);
            auto found = directory->catalog();
            BackupCatalog catalog;
            if (found)
                catalog = *std::move(found);
            else
                catalog.id = Uuid::make().str(), catalog.vm_id = vm;
            const std::size_t removed = directory->clean_up(catalog);
            return std::make_tuple(std::move(directory), std::move(catalog), removed);
        };
        auto [directory, catalog, removed] = co_await work_.run(std::move(work));
        directory_ = std::move(directory);
        catalog_ = std::move(catalog);
        if (removed > 0)
            session_.output().note(
                fmt::format("{} files of a backup that did not come to its end were removed.", removed));
        if (catalog_.vm_id != vm_.text("Id"))
            throw Error(ErrorCode::already_exists,
                        "{} has backups of another VM ({}); give each VM a directory of its own",
                        quote(directory_->path()), catalog_.vm_id);
    }

    /// In a catalogue that is full.
    async::Task<> make_room() {
        if (catalog_.moments.size() < most_moments) co_return;
        if (arguments_.value("keep")) co_await remove_old_moments();
        if (catalog_.moments.size() < most_moments) co_return;
        throw Error(ErrorCode::unsupported,
                    "{} has {} moments, and can have no more; remove old ones with --keep, or back up to "
                    "another directory",
                    quote(directory_->path()), catalog_.moments.size());
    }

    /// The moment since which changes are asked for, and why there is none.
    void choose_base() {
        if (arguments_.flag("full")) return;
        const auto wanted = arguments_.value("since");
        if (wanted) {
            base_ = catalog_.moment(*wanted);
            if (base_ == nullptr)
                throw Error(ErrorCode::not_found, "{} has no moment {}: see 'volchainctl backup list {}'",
                            quote(directory_->path()), quote(*wanted), directory_->path());
        } else {
            base_ = newest_with_checkpoint(catalog_);
        }
        if (base_ == nullptr && !catalog_.moments.empty()) {
            no_base_ = "there is no checkpoint, as no image could hold one";
        } else if (base_ == nullptr) {
            no_base_ = "it is the first one";
        } else if (base_->checkpoint.empty()) {
            no_base_ = fmt::format("moment {} has no checkpoint, as no image could hold one", base_->id);
            base_ = nullptr;
        } else if (!has_checkpoint(base_->checkpoint)) {
            no_base_ = fmt::format("checkpoint {} of moment {} is not there any more",
                                   quote(base_->checkpoint), base_->id);
            base_ = nullptr;
        }
        if (base_ == nullptr && arguments_.flag("require-incremental"))
            throw Error(ErrorCode::unsupported, "it would not be incremental, which is required: {}",
                        no_base_);
    }

    [[nodiscard]] bool has_checkpoint(const std::string& name) const {
        using Checkpoint = std::tuple<std::string, std::uint64_t, std::string>;
        const auto all = vm_.value<std::vector<Checkpoint>>("Checkpoints");
        return std::any_of(all.begin(), all.end(),
                           [&](const Checkpoint& one) { return std::get<0>(one) == name; });
    }

    // --- taking it -----------------------------------------------------------------------------------------

    async::Task<> take() {
        moment_.id = new_moment_id(catalog_);
        moment_.checkpoint = checkpoint_prefix(catalog_) + moment_.id;
        moment_.vm_name = vm_.text("Name");
        co_await begin();
        failpoint("backup-run.begun");
        co_await name_files();
        failpoint("backup-run.named");
        co_await keep_config();
        for (std::size_t disk = 0; disk < held_.disks().size(); ++disk) {
            work_.stop().throw_if_asked();
            DiskBackup backup(work_, *directory_, catalog_, base_);
            moment_.disks[disk] = co_await backup.run(held_, disk, moment_.disks[disk]);
            check_required(moment_.disks[disk]);
        }
        co_await conclude();
    }

    async::Task<> begin() {
        bus::Dict options = co_await request();
        std::exception_ptr failure;
        co_await async::keep_failure(held_.start(vm_path_, options), failure);
        if (!failure) co_return;
        work_.stop().throw_if_asked();
        const bool refused = to_error(failure).code() == ErrorCode::unsupported;
        if (!refused) std::rethrow_exception(failure);
        // Where it is not for the checkpoint, it is refused again.
        options.erase("checkpoint");
        moment_.checkpoint.clear();
        co_await held_.start(vm_path_, std::move(options));
        session_.output().note(
            "No image of these disks can hold a checkpoint, which takes qcow2 (compat 1.1): the next backup "
            "will "
            "be a full one, too.");
    }

    async::Task<bus::Dict> request() {
        MethodOptions options(arguments_);
        options.text("quiesce").duration("freeze-timeout");
        options.set("checkpoint", moment_.checkpoint);
        options.set("kind", base_ == nullptr ? "full" : "incremental");
        if (base_ != nullptr) options.set("since", base_->checkpoint);
        if (base_ != nullptr) options.flag("require-incremental");
        const Objects objects = co_await session_.objects();
        std::vector<bus::ObjectPath> disks;
        for (const std::string& disk : arguments_.values("disk")) {
            const bus::ObjectPath found = co_await find_disk_of(session_, objects, vm_path_, disk);
            disks.push_back(found);
        }
        options.objects("disks", disks);
        co_return options.dict();
    }

    /// Names, and all of them on disk before the first file is.
    async::Task<> name_files() {
        std::set<std::string> taken;
        for (const HeldDisk& disk : held_.disks()) {
            std::string name = file_name_part(disk.name);
            for (int number = 2; !taken.insert(name).second; ++number)
                name = fmt::format("{}-{}", file_name_part(disk.name), number);
            SavedDisk saved;
            saved.id = disk.id;
            saved.name = disk.name;
            saved.target = disk.target;
            saved.file = fmt::format("{}.{}.qcow2", name, moment_.id);
            saved.digests = fmt::format("{}.{}.digests", name, moment_.id);
            files_.push_back(saved.file);
            files_.push_back(saved.digests);
            moment_.disks.push_back(std::move(saved));
        }
        config_file_ = "config." + moment_.id;
        std::vector<std::string> all = files_;
        all.push_back(config_file_);
        auto work = [this, all = std::move(all)] { directory_->begin(all); };
        co_await work_.run(std::move(work));
    }

    async::Task<> keep_config() {
        std::exception_ptr failure;
        std::tuple<bus::Variant::Bytes, std::string> config;
        co_await async::keep_result(held_.config(), config, failure);
        if (failure) {
            const Error error = to_error(failure);
            const bool denied =
                error.code() == ErrorCode::access_denied || error.code() == ErrorCode::interaction_required;
            if (!denied) throw error;
            session_.output().note(fmt::format(
                "The VM's configuration may not be read, and is not in the backup: {}", error.what()));
            co_return;
        }
        const auto& [document, type] = config;
        if (document.empty()) co_return;
        auto work = [this, bytes = document] {
            directory_->write_part(config_file_, std::as_bytes(std::span(bytes)));
            Sha256 hash;
            hash.add(std::as_bytes(std::span(bytes)));
            return hexadecimal(hash.finish());
        };
        SavedConfig kept;
        kept.sha256 = co_await work_.run(std::move(work));
        kept.file = config_file_;
        kept.type = type;
        files_.push_back(config_file_);
        moment_.config = std::move(kept);
    }

    void check_required(const SavedDisk& disk) const {
        if (arguments_.flag("require-incremental") && disk.full())
            throw Error(ErrorCode::unsupported, "disk {} would not be incremental, which is required: {}",
                        quote(disk.name), disk.why);
    }

    /// All is complete: what is left is names, the daemon's word that the moment was held, and the catalogue.
    async::Task<> conclude() {
        moment_.usec = held_.usec();
        moment_.consistency = held_.consistency();
        if (base_ == nullptr)
            for (SavedDisk& disk : moment_.disks)
                if (disk.why.empty()) disk.why = no_base_;
        complete_ = catalog_;
        complete_.moments.push_back(moment_);
        work_.stop().throw_if_asked();
        work_.stop().close();
        failpoint("backup-run.complete");
        auto publish = [this] {
            directory_->publish(files_);
            directory_->prepare(complete_);
        };
        co_await work_.run("publish", std::move(publish));
        failpoint("backup-run.published");
        co_await held_.finish();
        failpoint("backup-run.finished");
        auto commit = [this] { directory_->commit(); };
        co_await work_.run(std::move(commit));
        catalog_ = complete_;
        failpoint("backup-run.committed");
    }

    /// The directory as it was. Where that cannot be done now, the next run does it.
    async::Task<> take_back(std::exception_ptr& failure) {
        const std::string problem = co_await held_.problem();
        if (!problem.empty() && !work_.stop().asked())
            failure = std::make_exception_ptr(
                Error(ErrorCode::qemu_failed, "the moment was not held: {}; back it up anew", problem));
        co_await held_.abort();
        // The catalogue that is there: where making the new one durable has failed, it may be that one.
        auto work = [this] {
            const auto there = directory_->catalog();
            (void)directory_->clean_up(there ? *there : catalog_);
        };
        std::exception_ptr left;
        co_await async::keep_failure(work_.run(std::move(work)), left);
        if (left)
            session_.output().note(fmt::format(
                "What was begun could not be removed; the next run does that: {}", to_error(left).what()));
    }

    // --- afterwards ----------------------------------------------------------------------------------------

    /// The backup is one whatever becomes of this.
    async::Task<> tidy_up() {
        std::exception_ptr failure;
        co_await async::keep_failure(remove_old_moments(), failure);
        if (failure)
            session_.output().note(
                fmt::format("Old moments could not be removed: {}", to_error(failure).what()));
        failure = nullptr;
        co_await async::keep_failure(remove_old_checkpoints(), failure);
        if (failure)
            session_.output().note(
                fmt::format("Old checkpoints could not be removed: {}", to_error(failure).what()));
    }

    async::Task<> remove_old_moments() {
        std::vector<std::string> gone;
        BackupCatalog rest = catalog_;
        if (const auto keep = arguments_.value("keep")) rest = with_newest(catalog_, count_to_keep(*keep));
        removed_ += catalog_.moments.size() - rest.moments.size();
        const std::vector<std::string> kept = rest.files();
        const std::set<std::string> needed(kept.begin(), kept.end());
        for (const std::string& file : catalog_.files())
            if (!needed.contains(file)) gone.push_back(file);
        auto work = [this, gone, rest] {
            if (!gone.empty()) {
                directory_->begin(gone);
                directory_->prepare(rest);
                directory_->commit();
            }
            failpoint("backup-run.forgotten");
            (void)directory_->clean_up(rest);
        };
        co_await work_.run(std::move(work));
        catalog_ = rest;
    }

    async::Task<> remove_old_checkpoints() {
        using Checkpoint = std::tuple<std::string, std::uint64_t, std::string>;
        const std::vector<std::string> useful = useful_checkpoints(catalog_);
        const std::string prefix = checkpoint_prefix(catalog_);
        const Object vm = co_await session_.object(vm_path_);
        for (const auto& [name, usec, state] : vm.value<std::vector<Checkpoint>>("Checkpoints")) {
            if (!name.starts_with(prefix) || std::find(useful.begin(), useful.end(), name) != useful.end())
                continue;
            const bus::Dict options;
            const auto job =
                co_await session_.call<bus::ObjectPath>(vm_path_, "DeleteCheckpoint", name, options);
            (void)co_await work_.job_to_its_end(job);
        }
    }

    void print() {
        if (session_.output().quiet() && !session_.output().json())
            return session_.output().print_text(moment_.id + "\n");
        Sheet sheet;
        sheet.add("Moment", Cell::text(moment_.id));
        sheet.add("TimeUsec", Cell::time(moment_.usec));
        sheet.add("Consistency", Cell::text(moment_.consistency));
        sheet.add("Checkpoint", Cell::text(moment_.checkpoint));
        std::vector<Cell> disks;
        for (const SavedDisk& disk : moment_.disks) {
            std::vector<std::pair<std::string, Cell>> fields;
            fields.emplace_back("name", Cell::text(disk.name));
            fields.emplace_back("kind", Cell::text(disk.full() ? "full" : "incremental"));
            fields.emplace_back("why", disk.why.empty() ? Cell() : Cell::text(disk.why));
            fields.emplace_back("data_bytes", Cell::size(disk.data_bytes));
            fields.emplace_back("file_bytes", Cell::size(disk.file_bytes));
            fields.emplace_back("file", Cell::text(disk.file));
            fields.emplace_back("checksum", Cell::text(disk.checksum));
            disks.push_back(Cell::record(std::move(fields)));
        }
        sheet.add("Disks", Cell::list(std::move(disks)));
        sheet.add("Removed", Cell::number(removed_));
        session_.output().print(sheet);
    }

    Session& session_;
    const Arguments& arguments_;
    BackupWork work_;
    HeldMoment held_;
    bus::ObjectPath vm_path_;
    Object vm_;
    std::unique_ptr<BackupDirectory> directory_;
    BackupCatalog catalog_;
    BackupCatalog complete_;
    const SavedMoment* base_ = nullptr;  // in catalog_
    std::string no_base_;
    SavedMoment moment_;
    std::string config_file_;
    std::vector<std::string> files_;
    std::size_t removed_ = 0;
};

}  // namespace

BackupCatalog with_newest(const BackupCatalog& catalog, std::size_t count) {
    std::set<std::string> needed;
    for (std::size_t back = 0; back < catalog.moments.size(); ++back) {
        // From the newest on: what stands on a moment has been looked at before it.
        const SavedMoment& moment = *(catalog.moments.rbegin() + static_cast<std::ptrdiff_t>(back));
        if (back >= count && !needed.contains(moment.id)) continue;
        needed.insert(moment.id);
        for (const SavedDisk& disk : moment.disks)
            if (!disk.full()) needed.insert(disk.on);
    }
    BackupCatalog rest = catalog;
    std::erase_if(rest.moments, [&needed](const SavedMoment& one) { return !needed.contains(one.id); });
    return rest;
}

std::vector<std::string> useful_checkpoints(const BackupCatalog& catalog) {
    std::vector<std::string> useful;
    if (const SavedMoment* newest = newest_with_checkpoint(catalog)) useful.push_back(newest->checkpoint);
    const auto full =
        std::find_if(catalog.moments.rbegin(), catalog.moments.rend(), [](const SavedMoment& moment) {
            return !moment.checkpoint.empty() &&
                   std::all_of(moment.disks.begin(), moment.disks.end(),
                               [](const SavedDisk& disk) { return disk.full(); });
        });
    if (full != catalog.moments.rend()) useful.push_back(full->checkpoint);
    return useful;
}

async::Task<> run_backup(Session& session, Arguments arguments) {
    BackupRun run(session, arguments);
    co_await run.run();
}

std::vector<Option> run_backup_options() {
    return {{"full", "", "copy all that is in the disks, whatever has changed"},
            {"since", "MOMENT", "copy what has changed since that moment, not since the last one"},
            {"require-incremental", "", "fail rather than copy a disk in full"},
            {"disk", "DISK...", "only this disk, and others that are named so"},
            {"quiesce", "auto|require|off",
             "freeze the guest for a moment, if that can be, or in any case, or not"},
            {"freeze-timeout", "DURATION", "how long the freeze may take"},
            {"keep", "N", "keep so many of the newest moments, and what they stand on"}};
}

}  // namespace volchain::client
