// SPDX-License-Identifier: MIT
#include "storage/checks/stray_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/allocation.h"
#include "storage/images/doomed_files.h"
#include "storage/pools/named_files.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t max_strays = 200;  ///< that are told, of one pool
constexpr auto scan_limit = std::chrono::minutes(5);
constexpr std::size_t uuid_length = 36;

// --- files on worker threads -------------------------------------------------------------------------------

struct Stray {
    std::string pool;  ///< directory
    std::string file;  ///< relative to it
    FileId id;
    nlink_t links = 0;
    Timestamp changed;              ///< its content, its name, its owner: whatever came last
    std::optional<Timestamp> born;  ///< where the file system tells
    bool holds_nothing = false;     ///< it is an empty overlay, or was never filled
    std::string backing;            ///< path of its backing file
    [[nodiscard]] std::string path() const { return pool + "/" + file; }
};

/// What to look for in one pool.
struct StrayQuery {
    std::string pool;
    std::set<std::string> directories;  ///< relative to it, "" for itself
    std::set<std::string> known;        ///< paths of volumes
    std::set<std::string> unwanted;     ///< relative to it
};

Timestamp timestamp_of(const struct statx_timestamp& time) {
    return Timestamp(std::chrono::seconds(time.tv_sec) + Microseconds(time.tv_nsec / 1000));
}

bool never_written(const qcow2::FileSource& source, const struct statx& status) {
    std::array<std::byte, 4> magic{};
    if (source.size() >= magic.size()) source.read(magic, 0);
    return status.stx_blocks == 0 && magic == std::array<std::byte, 4>{};
}

/// An overlay as it was made: no data, no zeroes, no bitmap.
bool empty_overlay(const qcow2::FileSource& source, const VolumeFacts& facts) {
    if (facts.state != VolumeState::ok || !facts.backing) return false;
    const qcow2::Header& header = *facts.header;
    return facts.bitmaps.empty() && !header.stale_bitmaps && header.snapshot_count == 0 &&
           !header.features.external_data_file && !qcow2::has_data(source, header);
}

/// None where it is no regular file, or cannot be read.
std::optional<Stray> look_at_stray(const std::string& pool, const std::string& file) {
    try {
        const UniqueFd directory = open_directory(pool);
        const UniqueFd image = open_beneath(directory.get(), file, O_RDONLY);
        struct stat status {};
        struct statx times {};
        if (::fstat(image.get(), &status) < 0 || !S_ISREG(status.st_mode) ||
            ::statx(image.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &times) < 0)
            return std::nullopt;
        Stray stray{pool, file, {status.st_dev, status.st_ino}, status.st_nlink, {}, {}, false, {}};
        stray.changed = std::max(timestamp_of(times.stx_mtime), timestamp_of(times.stx_ctime));
        if ((times.stx_mask & STATX_BTIME) != 0) stray.born = timestamp_of(times.stx_btime);
        const qcow2::FileSource source(image.get());
        const VolumeFacts facts = inspect_image(pool, file, VolumeFormat::qcow2);
        if (facts.backing) stray.backing = facts.backing->path;
        stray.holds_nothing = never_written(source, times) || empty_overlay(source, facts);
        return stray;
    } catch (const Error&) {
        return std::nullopt;
    }
}

std::vector<std::string> names_in_directory(const std::string& path) {
    std::vector<std::string> names;
    std::error_code failure;
    fs::directory_iterator entry(path, failure);
    while (!failure && entry != fs::directory_iterator()) {
        names.push_back(entry->path().filename().string());
        entry.increment(failure);
    }
    if (failure) throw system_error(failure.value(), "cannot list " + quote(path));
    return names;
}

std::vector<Stray> list_strays(const StrayQuery& query) {
    std::set<std::string> files = query.unwanted;
    for (const std::string& directory : query.directories)
        for (const std::string& name : names_in_directory((fs::path(query.pool) / directory).string()))
            if (own_name(name)) files.insert((fs::path(directory) / name).string());
    std::vector<Stray> strays;
    for (const std::string& file : files) {
        if (query.known.contains(query.pool + "/" + file)) continue;
        if (auto stray = look_at_stray(query.pool, file)) strays.push_back(*std::move(stray));
        if (strays.size() == max_strays) break;
    }
    return strays;
}

// --- what may go -------------------------------------------------------------------------------------------

class StrayJudge {
  public:
    StrayJudge(const Engine& engine, const DiskView& view) : engine_(engine), view_(view) {}

    /// The others are known to a job, or named by a volume's header, or another disk's.
    [[nodiscard]] bool concerns_disk(const Stray& stray) const {
        if (catalog().find_volume(stray.path()) != nullptr) return false;
        if (view_.planned.contains(stray.file) || view_.planned.contains(stray.path())) return false;
        for (const auto& [id, volume] : catalog().volumes()) {
            const auto& reference = catalog().facts(id).backing;
            if (reference && reference->path == stray.path()) return false;
        }
        const auto own = own_name(stray.file);
        if (!own || own->disk == own_part()) return true;
        const auto& disks = catalog().disks();
        return std::none_of(disks.begin(), disks.end(), [&](const auto& other) {
            return file_name_part(other.second.name) == own->disk;
        });
    }

    /// Nothing that it holds is of any use, by what volchain itself knows.
    [[nodiscard]] bool useless(const Stray& stray) const {
        return given_up(stray) || empty_of_this_disk(stray);
    }

    [[nodiscard]] Finding finding(const Stray& stray, const NamedFiles& named) const {
        const std::string path = quote(stray.path());
        std::string text =
            given_up(stray)
                ? fmt::format("{} is left of a volume that is gone: it could not be removed then", path)
            : empty_of_this_disk(stray)
                ? fmt::format(
                      "{} is an overlay that holds nothing, and no record knows it: it is left of an "
                      "operation that was broken off",
                      path)
                : fmt::format(
                      "{} has a name as volchain gives, but no record knows it: where it is needed, import "
                      "it "
                      "('volchainctl disk import'); where somebody knows that it is not, remove it by hand",
                      path);
        Finding finding(FindingKind::orphan, Severity::warning, std::move(text));
        finding.at(stray.path());
        if (!useless(stray)) return finding;
        if (const std::string why = obstacle(stray, named); !why.empty())
            finding.message += "; it stays: " + why;
        else
            finding.mended_by(Remedy::unlink_file);
        return finding;
    }

    /// What stands against unlinking it; empty: nothing that can be seen.
    [[nodiscard]] std::string obstacle(const Stray& stray, const NamedFiles& named) const {
        if (stray.links != 1) return "the file has another name, too";
        if (view_.jobs_since && stray.changed >= *view_.jobs_since)
            return "it is younger than a job under way";
        if (const std::string user = configured_in(stray); !user.empty()) return user;
        for (const auto& [id, record] : catalog().vms())
            for (const LiveDisk& disk : engine_.vm(id).disks())
                for (const LiveLayer& layer : disk.layers)
                    if (layer.path == stray.path())
                        return catalog().describe({ObjectKind::vm, id}) + " has it open";
        const auto found = named.by.find(stray.id);
        if (found != named.by.end()) return fmt::format("{} stands on it", quote(found->second));
        if (!named.unknown.empty()) return "whether something stands on it is not known, as " + named.unknown;
        return {};
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] std::string own_part() const { return file_name_part(catalog().disk(view_.disk).name); }

    /// Its own name is given once; of any other there may be a new file by now.
    [[nodiscard]] bool given_up(const Stray& stray) const {
        const auto found = catalog().unwanted_files().find(stray.path());
        if (found == catalog().unwanted_files().end()) return false;
        const UnwantedFile& unwanted = found->second;
        return own_name(stray.file) ||
               (unwanted.inode == stray.id.inode && stray.born && *stray.born <= unwanted.since);
    }

    [[nodiscard]] bool empty_of_this_disk(const Stray& stray) const {
        const auto own = own_name(stray.file);
        if (!own || own->disk != own_part() || own->format != VolumeFormat::qcow2 || !stray.holds_nothing)
            return false;
        if (stray.backing.empty()) return true;
        const VolumeRecord* const below = catalog().find_volume(stray.backing);
        return below != nullptr && below->disk == view_.disk;
    }

    [[nodiscard]] std::string configured_in(const Stray& stray) const {
        const std::string name = fs::path(stray.file).filename().string();
        for (const auto& [id, vm] : catalog().vms())
            if (vm.config.find(name) != std::string::npos ||
                vm.preview.value_or(PreviewRecord{}).former_config.find(name) != std::string::npos)
                return fmt::format("the configuration of {} names it",
                                   catalog().describe({ObjectKind::vm, id}));
        for (const auto& [id, snapshot] : catalog().snapshots())
            if (snapshot.config.find(name) != std::string::npos)
                return fmt::format("the configuration in {} names it",
                                   catalog().describe({ObjectKind::snapshot, id}));
        return {};
    }

    const Engine& engine_;
    const DiskView& view_;
};

StrayQuery stray_query(const Catalog& catalog, const DiskView& view, const Uuid& pool) {
    StrayQuery query{catalog.pool(pool).path, {}, {}, {}};
    for (const auto& [id, volume] : catalog.volumes()) {
        query.known.insert(catalog.path(volume));
        if (volume.pool == pool && volume.disk == view.disk)
            query.directories.insert(fs::path(volume.file).parent_path().string());
    }
    for (const auto& [path, unwanted] : catalog.unwanted_files())
        if (unwanted.pool == query.pool) query.unwanted.insert(unwanted.file);
    return query;
}

async::Task<std::vector<Stray>> strays_in_pool(Engine& engine, DiskView view, Uuid pool) {
    auto work = [query = stray_query(engine.catalog(), view, pool)] { return list_strays(query); };
    co_return co_await async::with_deadline(engine.files(pool).run(std::move(work)), async::after(scan_limit),
                                            "the list of the files in a pool");
}

}  // namespace

std::optional<OwnName> own_name(const std::string& file) {
    const fs::path path = fs::path(file).filename();
    std::string extension = path.extension().string();
    if (!extension.empty()) extension.erase(0, 1);
    const auto format = from_word<VolumeFormat>(extension);
    const std::string stem = path.stem().string();
    if (!format || stem.size() < uuid_length + 2) return std::nullopt;
    const std::string id = stem.substr(stem.size() - uuid_length);
    const std::string disk = stem.substr(0, stem.size() - uuid_length - 1);
    const auto uuid = Uuid::parse(id);
    const bool separated = stem[disk.size()] == '-';
    if (!uuid || uuid->str() != id || !separated || file_name_part(disk) != disk) return std::nullopt;
    return OwnName{disk, *uuid, *format};
}

async::Task<Findings> find_stray_files(Engine& engine, DiskView view) {
    Findings findings;
    const StrayJudge judge(engine, view);
    std::vector<Stray> strays;
    for (const auto& [pool, state] : view.pools) {
        if (state == PoolState::missing) continue;
        std::vector<Stray> here;
        std::exception_ptr failure;
        co_await async::keep_result(strays_in_pool(engine, view, pool), here, failure);
        if (failure) {
            const Error error = to_error(failure);
            if (error.code() == ErrorCode::cancelled) throw error;
            findings.emplace_back(
                FindingKind::unchecked, Severity::warning,
                fmt::format("files in {} that nobody knows were not looked for: {}",
                            engine.catalog().describe({ObjectKind::pool, pool}), error.what()));
        }
        std::move(here.begin(), here.end(), std::back_inserter(strays));
    }
    std::erase_if(strays, [&](const Stray& stray) { return !judge.concerns_disk(stray); });
    NamedFiles named;
    const bool worth_it =
        std::any_of(strays.begin(), strays.end(), [&](const Stray& stray) { return judge.useless(stray); });
    if (worth_it) named = co_await read_all_headers(engine);
    for (const Stray& stray : strays) findings.push_back(judge.finding(stray, named));
    co_return findings;
}

async::Task<> unlink_stray_file(Engine& engine, DiskView view, std::string path) {
    const auto place = engine.catalog().place(path);
    if (!place) throw Error(ErrorCode::not_found, "{} is in no pool any more", quote(path));
    const std::string pool = engine.catalog().pool(place->pool).path;
    auto look = [pool, file = place->file] { return look_at_stray(pool, file); };
    const std::optional<Stray> stray = co_await engine.files(place->pool).run(std::move(look));
    if (!stray) co_return;  // it has gone by itself
    const NamedFiles named = co_await read_all_headers(engine);
    const StrayJudge judge(engine, view);
    const std::string why = judge.obstacle(*stray, named);
    if (!judge.concerns_disk(*stray) || !judge.useless(*stray) || !why.empty())
        throw Error(ErrorCode::in_use, "it may be needed now: {}", why.empty() ? "it has changed" : why);
    DoomedFiles doomed;
    doomed.add(pool, place->file);
    co_await doomed.unlink_all(engine);
}

}  // namespace volchain::storage
