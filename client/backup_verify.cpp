// SPDX-License-Identifier: MIT
#include "client/backup_verify.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "client/backup_directory.h"
#include "client/backup_work.h"
#include "client/disk_backup.h"
#include "client/image_tool.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

constexpr std::size_t most_config_bytes = std::size_t{4} << 20;

/// Whatever is found of a file, a sector that cannot be read among it, is a verdict on that file alone; but for what ends the
/// program, or is this host's: that something takes too long says nothing of what is in the file.
bool is_of_the_file(const Error& error) {
    return error.code() != ErrorCode::cancelled && error.code() != ErrorCode::no_space &&
           error.code() != ErrorCode::timeout;
}

class BackupVerification {
  public:
    BackupVerification(Session& session, const Arguments& arguments)
        : session_(session), arguments_(arguments), work_(session, "verify") {}

    async::Task<> run() {
        if (!session_.settings().wait)
            throw UsageError("--no-wait is for jobs; this is done by volchainctl itself");
        co_await open();
        for (const SavedMoment* moment : wanted_)
            for (const SavedDisk& disk : moment->disks) co_await look_at_chain(*moment, disk);
        for (const SavedMoment* moment : wanted_) co_await sum_up(*moment);
        print();
        conclude();
    }

  private:
    async::Task<> open() {
        require_image_programs();
        auto work = [path = arguments_.at(0)] {
            auto directory = std::make_unique<BackupDirectory>(path, BackupDirectory::Use::read, false);
            auto catalog = directory->catalog();
            if (!catalog)
                throw Error(ErrorCode::not_found, "{} has no catalogue of backups, volchain-backup.json",
                            quote(directory->path()));
            return std::make_pair(std::move(directory), *std::move(catalog));
        };
        auto [directory, catalog] = co_await work_.run(std::move(work));
        directory_ = std::move(directory);
        catalog_ = std::move(catalog);
        const auto only = arguments_.value("moment");
        for (const SavedMoment& moment : catalog_.moments)
            if (!only || moment.id == *only) wanted_.push_back(&moment);
        if (only && wanted_.empty())
            throw Error(ErrorCode::not_found, "{} has no moment {}", quote(directory_->path()), quote(*only));
    }

    /// The bottom first, each once.
    async::Task<> look_at_chain(const SavedMoment& moment, const SavedDisk& disk) {
        auto chain = catalog_.chain(moment, disk);
        std::reverse(chain.begin(), chain.end());
        const SavedDisk* below = nullptr;
        for (const SavedDisk* part : chain) {
            if (!problems_.contains(part->file)) {
                std::vector<std::string> found = co_await problems_of(*part, below);
                problems_.emplace(part->file, std::move(found));
            }
            below = part;
        }
    }

    async::Task<std::vector<std::string>> problems_of(const SavedDisk& disk, const SavedDisk* below) {
        std::vector<std::string> problems;
        std::exception_ptr failure;
        co_await async::keep_failure(examine(disk, below, problems), failure);
        work_.stop().throw_if_asked();
        if (failure) {
            const Error error = to_error(failure);
            if (!is_of_the_file(error)) throw error;
            problems.emplace_back(error.what());
        }
        co_return problems;
    }

    async::Task<> examine(const SavedDisk& disk, const SavedDisk* below, std::vector<std::string>& problems) {
        const auto length = directory_->length_of(disk.file);
        if (!length) {
            problems.emplace_back("it is not there");
            co_return;
        }
        if (*length != disk.file_bytes)
            problems.push_back(fmt::format("it has {} bytes, not {}", *length, disk.file_bytes));
        if (!directory_->length_of(disk.digests)) {
            problems.push_back(fmt::format("{} is not there", quote(disk.digests)));
            co_return;
        }
        const std::string path = directory_->path_of(disk.file);
        const ImageInfo info = co_await image_info(path);
        check_header(info, disk, below, problems);
        const ImageReport report = co_await check_image(path);
        if (report.corruptions > 0 || report.errors > 0)
            problems.push_back(fmt::format("qemu-img finds {} corruptions in its tables",
                                           report.corruptions + report.errors));
        co_await compare(disk, path, problems);
    }

    static void check_header(const ImageInfo& info, const SavedDisk& disk, const SavedDisk* below,
                             std::vector<std::string>& problems) {
        const std::string backing = below == nullptr ? std::string() : below->file;
        if (info.data_file) throw Error(ErrorCode::unsafe_image, "its data is in another file");
        if (info.size != disk.size)
            problems.push_back(fmt::format("it is of a disk of {} bytes, not {}", info.size, disk.size));
        if (info.backing != backing)
            problems.push_back(fmt::format("it stands on {}, not on {}",
                                           info.backing.empty() ? "nothing" : quote(info.backing),
                                           backing.empty() ? "nothing" : quote(backing)));
        if (below != nullptr && info.backing_format != "qcow2")
            problems.emplace_back("it does not say that what it stands on is qcow2");
    }

    async::Task<> compare(const SavedDisk& disk, std::string path, std::vector<std::string>& problems) {
        std::vector<std::string> files{path};
        auto server = co_await ImageServer::start(std::move(files), false, quote(path));
        auto sockets = std::make_shared<ImageSockets>(sockets_of(*server, 2, useful_connections()));
        auto work = [this, sockets, digests = disk.digests, full = disk.full()] {
            std::vector<std::shared_ptr<const DigestList>> lists{
                std::make_shared<const DigestList>(directory_->open(digests), digests)};
            const MomentDigests expected(std::move(lists));
            return compare_image(std::move(*sockets), expected, full, work_.progress(), work_.stop());
        };
        const std::vector<std::string> found =
            co_await work_.run_over(std::move(server), disk.file, std::move(work));
        problems.insert(problems.end(), found.begin(), found.end());
    }

    /// What a moment lacks.
    async::Task<> sum_up(const SavedMoment& moment) {
        std::vector<std::string>& lacks = lacks_[moment.id];
        for (const SavedDisk& disk : moment.disks) {
            bool whole = true;
            for (const SavedDisk* part : catalog_.chain(moment, disk)) {
                if (problems_.at(part->file).empty()) continue;
                whole = false;
                lacks.push_back(fmt::format("{}: {} is damaged", disk.name, part->file));
            }
            if (!whole) continue;
            auto work = [this, &moment, &disk] {
                return MomentDigests(digest_lists(*directory_, catalog_, moment, disk)).checksum();
            };
            std::exception_ptr failure;
            std::string checksum;
            co_await async::keep_result(work_.run(std::move(work)), checksum, failure);
            work_.stop().throw_if_asked();
            if (failure)
                lacks.push_back(fmt::format("{}: {}", disk.name, to_error(failure).what()));
            else if (checksum != disk.checksum)
                lacks.push_back(fmt::format(
                    "{}: the lists of digests do not make the checksum of the catalogue", disk.name));
        }
        if (!moment.config) co_return;
        auto work = [this, config = *moment.config] { return config_is_whole(config); };
        std::exception_ptr failure;
        bool whole = false;
        co_await async::keep_result(work_.run(std::move(work)), whole, failure);
        work_.stop().throw_if_asked();
        if (failure)
            lacks.push_back(fmt::format("{}: {}", moment.config->file, to_error(failure).what()));
        else if (!whole)
            lacks.push_back(fmt::format("{} is damaged or not there", moment.config->file));
    }

    [[nodiscard]] bool config_is_whole(const SavedConfig& config) const {
        if (!directory_->length_of(config.file)) return false;
        const std::string content = directory_->content(config.file, most_config_bytes);
        Sha256 hash;
        hash.add(std::as_bytes(std::span(content)));
        return hexadecimal(hash.finish()) == config.sha256;
    }

    void print() {
        if (session_.output().json()) return session_.output().print_json(json());
        std::string text;
        for (const auto& [file, problems] : problems_)
            for (const std::string& problem : problems) text += fmt::format("{}: {}\n", file, problem);
        for (const SavedMoment* moment : wanted_) {
            const std::vector<std::string>& lacks = lacks_.at(moment->id);
            text +=
                fmt::format("{}  {}\n", moment->id, lacks.empty() ? "ok" : "DAMAGED: " + joined(lacks, "; "));
        }
        if (!session_.output().quiet()) session_.output().print_text(printable_lines(text));
    }

    static std::string printable_lines(const std::string& text) {
        std::string lines;
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t end = text.find('\n', at);
            lines += printable(std::string_view(text).substr(at, end - at)) + "\n";
            at = end + 1;
        }
        return lines;
    }

    [[nodiscard]] OrderedJson json() const {
        OrderedJson files = OrderedJson::array();
        for (const auto& [file, problems] : problems_)
            files.push_back(OrderedJson{
                {"file", file}, {"state", problems.empty() ? "ok" : "damaged"}, {"problems", problems}});
        OrderedJson moments = OrderedJson::array();
        for (const SavedMoment* moment : wanted_) {
            const std::vector<std::string>& lacks = lacks_.at(moment->id);
            moments.push_back(OrderedJson{
                {"moment", moment->id}, {"state", lacks.empty() ? "ok" : "damaged"}, {"problems", lacks}});
        }
        return OrderedJson{{"files", std::move(files)}, {"moments", std::move(moments)}};
    }

    void conclude() const {
        std::size_t damaged = 0;
        std::string good;
        for (const SavedMoment* moment : wanted_) {
            if (!lacks_.at(moment->id).empty())
                ++damaged;
            else
                good = moment->id;
        }
        if (damaged == 0) return;
        throw Error(ErrorCode::corrupt_image, "{}: {} of {} moments cannot be restored as they were; {}",
                    quote(directory_->path()), damaged, wanted_.size(),
                    good.empty() ? "none can" : "the last one that can is " + good);
    }

    Session& session_;
    const Arguments& arguments_;
    BackupWork work_;
    std::unique_ptr<BackupDirectory> directory_;
    BackupCatalog catalog_;
    std::vector<const SavedMoment*> wanted_;
    std::map<std::string, std::vector<std::string>> problems_;  // by file
    std::map<std::string, std::vector<std::string>> lacks_;     // by moment
};

std::string kind_of_moment(const SavedMoment& moment) {
    const auto full = static_cast<std::size_t>(std::count_if(
        moment.disks.begin(), moment.disks.end(), [](const SavedDisk& disk) { return disk.full(); }));
    if (full == moment.disks.size()) return "full";
    return full == 0 ? "incremental" : "mixed";
}

}  // namespace

async::Task<> verify_backups(Session& session, Arguments arguments) {
    BackupVerification verification(session, arguments);
    co_await verification.run();
}

async::Task<> list_moments(Session& session, std::string path) {
    const BackupDirectory directory(path, BackupDirectory::Use::look, false);
    const auto catalog = directory.catalog();
    Table table("moment", {{"Moment"},
                           {"TimeUsec"},
                           {"VMName"},
                           {"Kind"},
                           {"Disks"},
                           {"DataBytes"},
                           {"FileBytes"},
                           {"Consistency"},
                           {"Checkpoint", false}});
    for (const SavedMoment& moment : catalog ? catalog->moments : std::vector<SavedMoment>()) {
        std::uint64_t data = 0;
        std::uint64_t bytes = 0;
        std::vector<Cell> disks;
        for (const SavedDisk& disk : moment.disks) {
            data += disk.data_bytes;
            bytes += disk.file_bytes;
            std::vector<std::pair<std::string, Cell>> fields;
            fields.emplace_back("name", Cell::text(disk.name));
            fields.emplace_back("id", Cell::id(disk.id));
            fields.emplace_back("target", Cell::text(disk.target));
            fields.emplace_back("size_bytes", Cell::size(disk.size));
            fields.emplace_back("kind", Cell::text(disk.full() ? "full" : "incremental"));
            fields.emplace_back("on", disk.full() ? Cell() : Cell::text(disk.on));
            fields.emplace_back("why", disk.why.empty() ? Cell() : Cell::text(disk.why));
            fields.emplace_back("data_bytes", Cell::size(disk.data_bytes));
            fields.emplace_back("file_bytes", Cell::size(disk.file_bytes));
            fields.emplace_back("file", Cell::text(disk.file));
            fields.emplace_back("checksum", Cell::text(disk.checksum));
            disks.push_back(Cell::record(std::move(fields)));
        }
        table.add({Cell::text(moment.id), Cell::time(moment.usec), Cell::text(moment.vm_name),
                   Cell::text(kind_of_moment(moment)), Cell::list(std::move(disks)), Cell::size(data),
                   Cell::size(bytes), Cell::text(moment.consistency), Cell::text(moment.checkpoint)});
    }
    session.output().print(table);
    co_return;
}

}  // namespace volchain::client
