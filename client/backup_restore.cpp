// SPDX-License-Identifier: MIT
#include "client/backup_restore.h"

#include <algorithm>
#include <map>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "client/backup_directory.h"
#include "client/backup_work.h"
#include "client/restored_disk.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

constexpr std::size_t most_restored_config = std::size_t{4} << 20;

/// By its name; else by its target, else by its id. None where there is none.
const SavedDisk* find_disk(const SavedMoment& moment, const std::string& word) {
    for (const auto member : {&SavedDisk::name, &SavedDisk::target, &SavedDisk::id})
        for (const SavedDisk& disk : moment.disks)
            if (disk.*member == word) return &disk;
    return nullptr;
}

class BackupRestore {
  public:
    BackupRestore(Session& session, const Arguments& arguments)
        : session_(session), arguments_(arguments), work_(session, "restore") {}

    async::Task<> run() {
        check_arguments();
        require_image_programs();
        pool_ = co_await session_.find("pool", *arguments_.value("pool"));
        if (const auto file = arguments_.value("file")) {
            RestoreSource source = co_await source_in_file(*file);
            disks_.push_back(std::make_unique<RestoredDisk>(work_, std::move(source)));
        } else {
            co_await choose();
        }
        co_await check_vm_name();
        std::exception_ptr failure;
        co_await async::keep_failure(restore(), failure);
        if (failure) {
            co_await take_back();
            work_.stop().throw_if_asked();
            std::rethrow_exception(failure);
        }
        print();
    }

  private:
    void check_arguments() const {
        if (!session_.settings().wait)
            throw UsageError("--no-wait is for jobs; this is done by volchainctl itself");
        const bool file = arguments_.value("file").has_value();
        if (file == arguments_.word(0).has_value())
            throw UsageError("what is to be restored: a DIRECTORY of backups, or an image (--file)?");
        if (!arguments_.value("pool")) throw UsageError("--pool is missing: where the disks are to go");
        if (file &&
            (arguments_.value("moment") || arguments_.value("vm-name") || !arguments_.values("disk").empty()))
            throw UsageError("--moment, --disk and --vm-name are for a DIRECTORY of backups");
        if (arguments_.value("name") && !file && arguments_.values("disk").size() != 1)
            throw UsageError("--name is for one disk: --file, or a single --disk");
    }

    // --- what is restored ----------------------------------------------------------------------------------

    async::Task<> choose() {
        auto work = [path = *arguments_.word(0)] {
            auto directory = std::make_unique<BackupDirectory>(path, BackupDirectory::Use::read, false);
            auto catalog = directory->catalog();
            if (!catalog || catalog->moments.empty())
                throw Error(ErrorCode::not_found,
                            "{} has no backups: its catalogue, volchain-backup.json, {}",
                            quote(directory->path()), catalog ? "is empty" : "is not there");
            return std::make_pair(std::move(directory), *std::move(catalog));
        };
        auto [directory, catalog] = co_await work_.run(std::move(work));
        directory_ = std::move(directory);
        catalog_ = std::move(catalog);
        const std::string wanted = arguments_.value("moment").value_or(catalog_.moments.back().id);
        moment_ = catalog_.moment(wanted);
        if (moment_ == nullptr)
            throw Error(ErrorCode::not_found, "{} has no moment {}: see 'volchainctl backup list {}'",
                        quote(directory_->path()), quote(wanted), directory_->path());
        for (const SavedDisk* disk : chosen_disks()) {
            RestoreSource source = co_await source_in_catalog(work_, *directory_, catalog_, *moment_, *disk);
            disks_.push_back(std::make_unique<RestoredDisk>(work_, std::move(source)));
        }
        if (arguments_.values("disk").empty()) note_disks_of_other_moments();
        if (arguments_.values("disk").empty() || arguments_.value("vm-name")) {
            vm_name_ = arguments_.value("vm-name").value_or(moment_->vm_name);
            if (moment_->config) co_await read_config(*moment_->config);
        }
    }

    [[nodiscard]] std::vector<const SavedDisk*> chosen_disks() const {
        std::vector<const SavedDisk*> chosen;
        const std::vector<std::string> wanted = arguments_.values("disk");
        for (const std::string& name : wanted) {
            const SavedDisk* const found = find_disk(*moment_, name);
            if (found == nullptr)
                throw Error(ErrorCode::not_found, "moment {} has no disk {}", moment_->id, quote(name));
            if (std::find(chosen.begin(), chosen.end(), found) == chosen.end()) chosen.push_back(found);
        }
        if (wanted.empty())
            for (const SavedDisk& disk : moment_->disks) chosen.push_back(&disk);
        return chosen;
    }

    /// A moment of some disks is not the whole VM.
    void note_disks_of_other_moments() const {
        std::map<std::string, const SavedMoment*> newest;  // by id
        std::map<std::string, std::string> names;
        for (const SavedMoment& moment : catalog_.moments)
            for (const SavedDisk& disk : moment.disks) newest[disk.id] = &moment, names[disk.id] = disk.name;
        for (const auto& [id, moment] : newest)
            if (moment_->disk(id) == nullptr)
                session_.output().note(fmt::format("Disk {} is not in moment {}, but in {} (--moment).",
                                                   quote(names[id]), moment_->id, moment->id));
    }

    async::Task<> read_config(SavedConfig saved) {
        auto work = [this, name = saved.file, wanted = saved.sha256] {
            const std::string content = directory_->content(name, most_restored_config);
            Sha256 hash;
            hash.add(std::as_bytes(std::span(content)));
            if (hexadecimal(hash.finish()) != wanted)
                throw Error(ErrorCode::corrupt_image,
                            "{} is damaged: the configuration cannot be restored; restore the disks alone "
                            "(--disk)",
                            quote(directory_->path_of(name)));
            return bus::Variant::Bytes(content.begin(), content.end());
        };
        config_ = co_await work_.run(std::move(work));
        config_type_ = saved.type;
    }

    /// Before anything is copied.
    async::Task<> check_vm_name() {
        if (vm_name_.empty()) co_return;
        const Objects objects = co_await session_.objects();
        for (const Object* vm : objects.of_kind("vm"))
            if (vm->name() == vm_name_)
                throw Error(ErrorCode::already_exists,
                            "there is a VM {} already; say what the new one is called with --vm-name",
                            quote(vm_name_));
    }

    /// Disks of a VM are called after it; those of one that gets a new name, too.
    [[nodiscard]] std::string name_for(const RestoreSource& source) const {
        if (const auto name = arguments_.value("name")) return *name;
        if (vm_name_.empty() || vm_name_ == moment_->vm_name) return source.name;
        const std::string of_old = moment_->vm_name + "-";
        const bool named_so = source.name.starts_with(of_old);
        return vm_name_ + "-" + (named_so ? source.name.substr(of_old.size()) : source.name);
    }

    // --- restoring it --------------------------------------------------------------------------------------

    async::Task<> restore() {
        MethodOptions options(arguments_);
        options.text("format")
            .text("preallocation")
            .size("cluster-size")
            .flag("extended-l2")
            .text("compression");
        for (const auto& disk : disks_) co_await disk->fill(name_for(disk->source()), pool_, options.dict());
        failpoint("restore.filled");
        for (const auto& disk : disks_) {
            work_.stop().throw_if_asked();
            co_await disk->finish();
        }
        failpoint("restore.finished");
        for (const auto& disk : disks_) co_await disk->verify();
        work_.stop().throw_if_asked();
        if (!vm_name_.empty()) co_await make_vm();
    }

    async::Task<> make_vm() {
        bus::Dict options;
        if (!config_.empty()) options["config"] = config_;
        if (!config_.empty()) options["config-type"] = config_type_;
        vm_ = co_await session_.call_manager<bus::ObjectPath>("RegisterVM", vm_name_, options);
        failpoint("restore.registered");
        for (const auto& disk : disks_) {
            const bus::Dict none;
            const auto job = co_await session_.call<bus::ObjectPath>(disk->disk(), "Attach", vm_,
                                                                     disk->source().target, none);
            (void)co_await work_.job_to_its_end(job);
        }
    }

    async::Task<> take_back() {
        work_.stop().close();
        std::vector<std::string> left;
        if (!vm_.none()) {
            std::exception_ptr failure;
            const bus::Dict options;
            co_await async::keep_failure(session_.call(vm_, "Unregister", options), failure);
            if (failure) left.push_back(fmt::format("VM {}: {}", quote(vm_name_), to_error(failure).what()));
        }
        for (const auto& disk : disks_) co_await disk->take_back(left);
        if (!left.empty())
            session_.output().note("What was begun could not be removed: " + joined(left, "; "));
    }

    void print() {
        if (session_.output().quiet() && !session_.output().json()) {
            const bus::ObjectPath made = vm_.none() ? disks_.front()->disk() : vm_;
            return session_.output().print_text(id_of(made) + "\n");
        }
        Sheet sheet;
        if (moment_ != nullptr) sheet.add("Moment", Cell::text(moment_->id));
        sheet.add("VM", vm_.none() ? Cell() : Cell::object("vm", id_of(vm_), vm_name_));
        std::vector<Cell> disks;
        for (const auto& disk : disks_) {
            std::vector<std::pair<std::string, Cell>> fields;
            fields.emplace_back("name", Cell::text(disk->source().name));
            fields.emplace_back("id", Cell::id(id_of(disk->disk())));
            fields.emplace_back("size_bytes", Cell::size(disk->source().size));
            fields.emplace_back("checksum", Cell::text(disk->checksum()));
            disks.push_back(Cell::record(std::move(fields)));
        }
        sheet.add("Disks", Cell::list(std::move(disks)));
        session_.output().print(sheet);
    }

    Session& session_;
    const Arguments& arguments_;
    BackupWork work_;
    bus::ObjectPath pool_;
    std::unique_ptr<BackupDirectory> directory_;
    BackupCatalog catalog_;
    const SavedMoment* moment_ = nullptr;
    std::string vm_name_;  // empty: no VM is made
    bus::Variant::Bytes config_;
    std::string config_type_;
    std::vector<std::unique_ptr<RestoredDisk>> disks_;
    bus::ObjectPath vm_;
};

}  // namespace

async::Task<> restore_backup(Session& session, Arguments arguments) {
    BackupRestore restore(session, arguments);
    co_await restore.run();
}

std::vector<Option> restore_backup_options() {
    return {
        {"pool", "POOL", "where the disks go"},
        {"moment", "MOMENT", "which one; the last if not given"},
        {"disk", "DISK...", "only this disk, and others that are named so; without a VM"},
        {"vm-name", "NAME", "what the VM is called; as it was if not given"},
        {"file", "FILE", "instead of a directory: an image that was pushed, with those that it stands on"},
        {"name", "NAME", "what a single disk is called"},
        {"format", "qcow2|raw", "of the images; qcow2 if not given"},
        {"preallocation", "off|metadata|falloc|full", "what is allocated beforehand; nothing if not given"},
        {"cluster-size", "SIZE", "of a qcow2 image"},
        {"extended-l2", "", "let a qcow2 image have subclusters"},
        {"compression", "zlib|zstd", "how a qcow2 image compresses, where something compresses"}};
}

}  // namespace volchain::client
