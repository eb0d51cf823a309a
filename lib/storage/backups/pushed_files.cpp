// SPDX-License-Identifier: MIT
#include "storage/backups/pushed_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "qcow2/empty_image.h"
#include "qcow2/header.h"
#include "qcow2/image_source.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {
namespace {

std::string file_of(const std::string& disk, std::string moment) {
    std::replace(moment.begin(), moment.end(), ':', '-');
    return fmt::format("{}.{}.qcow2", file_name_part(disk), moment);
}

bool is_there(const std::string& path) {
    struct stat status {};
    return ::lstat(path.c_str(), &status) == 0;
}

/// Why nothing can be put on a file; empty where that can be.
std::string label_of(const PushedFile& file) {
    const UniqueFd directory = open_directory(file.directory);
    const UniqueFd fd = open_beneath(directory.get(), file.name, O_RDONLY);
    return qcow2::read_header(qcow2::FileSource(fd.get())).label.value_or("");
}

std::string unfit_below(const PushedFile& below) {
    if (!is_there(below.path()))
        return fmt::format("{} has no {}, the backup of that checkpoint", quote(below.directory),
                           quote(below.name));
    const VolumeFacts facts = inspect_image(below.directory, below.name, VolumeFormat::qcow2);
    if (facts.state != VolumeState::ok)
        return fmt::format("{} is {}: {}", quote(below.path()), word(facts.state), facts.problem);
    if (label_of(below) == below.checkpoint) return {};
    return fmt::format("{} is the backup of another checkpoint that was called so", quote(below.path()));
}

/// By an earlier life of the daemon; where there is no checkpoint that tells it, a name is left alone.
bool named_earlier(const PushedFile& file) {
    return !file.checkpoint.empty() && is_there(file.path()) && label_of(file) == file.checkpoint;
}

/// Else a backup that there is none of would have a file under its name.
void take_name_back(const PushedFile& file) noexcept {
    try {
        const UniqueFd directory = open_directory(file.directory);
        rename_to_new(directory.get(), file.name, file.part);
    } catch (const std::exception& error) {
        log().warning("{} stays, though its backup failed: {}", quote(file.path()), error.what());
    }
}

}  // namespace

Json PushedFile::json() const {
    return Json{{"directory", directory},
                {"name", name},
                {"part", part},
                {"below", below},
                {"checkpoint", checkpoint}};
}

PushedFile PushedFile::parse(const JsonReader& plan) {
    return {plan.at("directory").string(), plan.at("name").string(), plan.at("part").string(),
            plan.at("below").string(), plan.string_or("checkpoint", "")};
}

void check_push_directory(const std::string& path) {
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "option 'target': {} {}", quote(clipped(path)), why);
    };
    if (!std::filesystem::path(path).is_absolute()) refuse("is not an absolute path");
    struct stat status {};
    if (::stat(path.c_str(), &status) < 0 || !S_ISDIR(status.st_mode)) refuse("is no directory");
}

std::vector<PushedFile> plan_files(const std::vector<std::string>& disk_names, const PushTarget& target,
                                   const std::optional<CheckpointName>& moment, BackupRecord& record) {
    const std::string time = format_utc(record.moment == Timestamp() ? record.created : record.moment);
    std::vector<PushedFile> files;
    const auto since = CheckpointName::of_bitmap(record.since);
    for (std::size_t index = 0; index < record.disks.size(); ++index) {
        BackupDisk& disk = record.disks[index];
        PushedFile file{target.directory,
                        file_of(disk_names[index], moment ? moment->name : time),
                        fmt::format(".vc-{}-{}.part", record.id.str(), index),
                        {},
                        moment ? moment->bitmap() : std::string()};
        if (is_there(file.path()))
            throw Error(ErrorCode::already_exists, "there is a file {} already; name another checkpoint",
                        quote(file.path()));
        if (disk.incremental) {
            const PushedFile below{
                target.directory, file_of(disk_names[index], since->name), {}, {}, record.since};
            disk.why = unfit_below(below);
            disk.incremental = disk.why.empty();
            if (disk.incremental) file.below = below.name;
        }
        files.push_back(std::move(file));
    }
    return files;
}

void make_pushed_file(const PushedFile& file, std::uint64_t size, const std::string& model_pool,
                      const std::string& model) {
    qcow2::EmptyImageOptions options(size);
    if (!file.below.empty()) options.on(file.below, "qcow2");
    if (!file.checkpoint.empty()) options.label = file.checkpoint;
    const qcow2::EmptyImage image = qcow2::empty_image(options);
    const NewFile made(file.directory, file.part);
    make_image_file_like(made, model_pool, model);
    const UniqueFd directory = open_directory(file.directory);
    const UniqueFd fd = open_beneath(directory.get(), file.part, O_WRONLY);
    for (const qcow2::Extent& extent : image.extents) write_at(fd.get(), extent.bytes, extent.offset);
    if (::ftruncate(fd.get(), static_cast<off_t>(image.length)) < 0)
        throw system_error(errno, "cannot set the length of " + quote(file.part_path()));
}

async::Task<> name_pushed_files(Engine& engine, std::vector<PushedFile> files) {
    auto work = [files = std::move(files)] {
        std::vector<const PushedFile*> named;
        try {
            for (const PushedFile& file : files) {
                if (!is_there(file.part_path())) {
                    if (named_earlier(file)) named.push_back(&file);
                    continue;
                }
                const UniqueFd directory = open_directory(file.directory);
                rename_to_new(directory.get(), file.part, file.name);
                named.push_back(&file);
                flush_image_file(NewFile(file.directory, file.name));
            }
        } catch (...) {
            for (const PushedFile* file : named) take_name_back(*file);
            throw;
        }
    };
    co_await engine.files().run(std::move(work));
}

async::Task<> remove_parts(Engine& engine, std::vector<PushedFile> files) {
    auto work = [files = std::move(files)] {
        for (const PushedFile& file : files) remove_image_file(NewFile(file.directory, file.part));
    };
    co_await engine.files().run(std::move(work));
}

}  // namespace volchain::storage
