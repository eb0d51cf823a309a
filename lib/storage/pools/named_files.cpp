// SPDX-License-Identifier: MIT
#include "storage/pools/named_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/identify.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t max_scanned = 100'000;  ///< files in one pool
constexpr auto header_scan_limit = std::chrono::minutes(5);

/// What to read in one pool.
struct HeaderQuery {
    std::string pool;
    std::map<std::string, VolumeFormat> volumes;  ///< by file, relative to it
};

void add_named(NamedFiles& named, const fs::path& file, const std::string& by_whom) {
    struct stat status {};
    if (::stat(file.c_str(), &status) == 0)
        named.by.emplace(FileId{status.st_dev, status.st_ino}, by_whom);
    else if (errno != ENOENT && errno != ENOTDIR)
        named.may_miss(system_error(errno, "cannot look at " + quote(file.string())).what());
}

void read_names_in(const std::string& pool, const std::string& file, NamedFiles& named) {
    const std::string path = pool + "/" + file;
    const VolumeFacts facts = inspect_image(pool, file, VolumeFormat::qcow2);
    if (facts.state == VolumeState::missing) return;  // it has just gone
    if (facts.state == VolumeState::corrupt)
        return named.may_miss(
            fmt::format("what {} stands on cannot be read: {}", quote(path), facts.problem));
    if (facts.backing && facts.backing->path.empty())
        named.may_miss(
            fmt::format("{} names {} as its backing file", quote(path), quote(facts.backing->name)));
    if (facts.backing) add_named(named, facts.backing->path, path);
    if (facts.header->data_file)
        add_named(named, fs::path(path).parent_path() / *facts.header->data_file, path);
}

bool may_name_others(int directory, const std::string& pool, const std::string& file, NamedFiles& named) {
    const UniqueFd image = open_beneath(directory, file, O_RDONLY);
    const auto marks = qcow2::identify(qcow2::FileSource(image.get()));
    if (marks && marks != qcow2::Format::qcow2 && marks != qcow2::Format::luks)
        named.may_miss(fmt::format("what {}, a {} image, stands on is not known", quote(pool + "/" + file),
                                   qcow2::name(*marks)));
    return marks == qcow2::Format::qcow2;
}

void read_file_in_pool(const HeaderQuery& query, int directory, const std::string& file, NamedFiles& named) {
    const auto volume = query.volumes.find(file);
    // What a guest makes of a raw one means nothing here.
    if (volume != query.volumes.end() && volume->second == VolumeFormat::raw) return;
    try {
        if (may_name_others(directory, query.pool, file, named)) read_names_in(query.pool, file, named);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found) named.may_miss(error.what());
    }
}

NamedFiles read_headers_in_pool(const HeaderQuery& query) {
    NamedFiles named;
    const UniqueFd directory = open_directory(query.pool);
    std::set<std::string> absent;
    for (const auto& [file, format] : query.volumes) absent.insert(file);
    std::size_t count = 0;
    std::error_code failure;
    fs::recursive_directory_iterator entry(query.pool, failure);
    while (!failure && entry != fs::recursive_directory_iterator() && count < max_scanned) {
        std::error_code gone;
        if (fs::is_regular_file(entry->symlink_status(gone))) {
            const std::string file = entry->path().lexically_relative(query.pool).string();
            absent.erase(file);
            read_file_in_pool(query, directory.get(), file, named);
            ++count;
        }
        entry.increment(failure);
    }
    if (failure) named.may_miss(system_error(failure.value(), "cannot list " + quote(query.pool)).what());
    if (count == max_scanned)
        named.may_miss(fmt::format("there are too many files in {}", quote(query.pool)));
    // Where a file system is not mounted nothing in it is seen.
    for (const std::string& file : absent)
        named.may_miss(fmt::format("volume {} is not there", quote(query.pool + "/" + file)));
    return named;
}

async::Task<NamedFiles> read_headers(Engine& engine, Uuid pool) {
    const Catalog& catalog = engine.catalog();
    HeaderQuery query{catalog.pool(pool).path, {}};
    for (const auto& [id, volume] : catalog.volumes())
        if (volume.pool == pool) query.volumes.emplace(volume.file, volume.format);
    auto work = [query = std::move(query)] { return read_headers_in_pool(query); };
    co_return co_await async::with_deadline(engine.files(pool).run(std::move(work)),
                                            async::after(header_scan_limit),
                                            "the headers of the images in a pool");
}

}  // namespace

async::Task<NamedFiles> read_all_headers(Engine& engine) {
    NamedFiles all;
    for (const Uuid& pool : engine.catalog().ids(ObjectKind::pool)) {
        NamedFiles here;
        std::exception_ptr failure;
        co_await async::keep_result(read_headers(engine, pool), here, failure);
        if (failure) {
            const Error error = to_error(failure);
            if (error.code() == ErrorCode::cancelled) throw error;
            all.may_miss(error.what());
        }
        if (!here.unknown.empty()) all.may_miss(here.unknown);
        all.by.merge(here.by);
    }
    co_return all;
}

async::Task<> check_no_header_names(Engine& engine, Uuid volume) {
    const NamedFiles named = co_await read_all_headers(engine);
    const std::string path = engine.catalog().path(engine.catalog().volume(volume));
    auto identify = [path] {
        struct stat status {};
        if (::stat(path.c_str(), &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
        return FileId{status.st_dev, status.st_ino};
    };
    const FileId id = co_await engine.files().run(std::move(identify));
    const auto found = named.by.find(id);
    if (found != named.by.end())
        throw Error(ErrorCode::in_use, "{} stands on {}", quote(found->second), quote(path));
    if (!named.unknown.empty())
        throw Error(ErrorCode::in_use, "whether something stands on {} is not known, as {}", quote(path),
                    named.unknown);
}

}  // namespace volchain::storage
