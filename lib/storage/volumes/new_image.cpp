// SPDX-License-Identifier: MIT
#include "storage/volumes/new_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/empty_image.h"
#include "qmp/job.h"
#include "qmp/node.h"
#include "storage/images/doomed_files.h"
#include "storage/images/file_access.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

constexpr auto format_look_interval = std::chrono::seconds(1);
constexpr auto format_end_limit = std::chrono::seconds(30);

void refuse_option(std::string_view option, std::string_view why) {
    throw Error(ErrorCode::invalid_argument, "option '{}' {}", option, why);
}

void check_raw_options(const ImageOptions& options) {
    if (options.cluster_size) refuse_option("cluster-size", "is for qcow2 only");
    if (options.extended_l2) refuse_option("extended-l2", "is for qcow2 only");
    if (options.compression) refuse_option("compression", "is for qcow2 only");
    if (options.preallocation == Preallocation::metadata)
        refuse_option("preallocation", "'metadata' is for qcow2 only");
    if (options.size > static_cast<std::uint64_t>(INT64_MAX)) refuse_option("size", "is too large");
}

UniqueFd create_file(const UniqueFd& pool, const std::string& file) {
    return open_beneath(pool.get(), file, O_WRONLY | O_CREAT | O_EXCL, 0600);
}

/// BlockdevCreateOptions.
Json create_options(const ImageOptions& image, const std::string& path, const std::string& file_node) {
    Json options;
    options["driver"] = word(image.format);
    options["size"] = image.size;
    options["preallocation"] = word(image.preallocation);
    if (image.format == VolumeFormat::raw) {
        options["driver"] = "file";
        options["filename"] = path;
        return options;
    }
    options["file"] = file_node;
    if (image.cluster_size) options["cluster-size"] = *image.cluster_size;
    if (image.extended_l2) options["extended-l2"] = true;
    if (image.compression) options["compression-type"] = *image.compression;
    return options;
}

/// Shows progress until the job in the storage daemon has ended, which has no limit: writing zeroes all over a large
/// disk takes its time.
async::Task<> follow_creation(JobPtr job, qmp::Job& creation, async::Clock::duration command_timeout) {
    while (!creation.ended()) {
        std::exception_ptr waited;
        co_await async::keep_failure(creation.until_ended(async::after(format_look_interval)), waited);
        if (waited && to_error(waited).code() != ErrorCode::timeout) std::rethrow_exception(waited);
        job->throw_if_cancelled();
        if (creation.ended()) break;
        const auto info = co_await creation.query(async::after(command_timeout));
        job->progress(info.current, info.total);
    }
    co_await creation.finish(async::after(format_end_limit));
}

}  // namespace

void check_image_options(const ImageOptions& options) {
    if (options.size == 0 || options.size % 512 != 0)
        throw Error(ErrorCode::invalid_argument,
                    "a disk of {} bytes: the size must be a multiple of 512, and not 0", options.size);
    if (options.format == VolumeFormat::raw) return check_raw_options(options);
    if (options.compression && *options.compression != "zlib" && *options.compression != "zstd")
        refuse_option("compression", fmt::format("{} is not one of zlib, zstd", quote(*options.compression)));
    // Throws where the options do not go together.
    qcow2::EmptyImageOptions empty(options.size);
    empty.cluster_size = options.cluster_size.value_or(empty.cluster_size);
    empty.extended_l2 = options.extended_l2;
    (void)qcow2::empty_image(empty);
}

std::string image_file_name(const std::string& disk, const Uuid& volume, VolumeFormat format) {
    return fmt::format("{}-{}.{}", file_name_part(disk), volume.str(), word(format));
}

void make_image_file(const NewFile& file, const Settings& settings) {
    const UniqueFd pool = open_directory(file.pool);
    struct stat directory {};
    if (::fstat(pool.get(), &directory) < 0) throw system_error(errno, "cannot look at " + quote(file.pool));
    const UniqueFd fd = create_file(pool, file.file);
    const uid_t uid = settings.image_uid.value_or(directory.st_uid);
    const gid_t gid = settings.image_gid.value_or(directory.st_gid);
    const bool mine = uid == ::geteuid() && gid == ::getegid();
    if ((!mine && ::fchown(fd.get(), uid, gid) < 0) || ::fchmod(fd.get(), settings.image_mode) < 0) {
        const int failure = errno;
        (void)::unlinkat(pool.get(), file.file.c_str(), 0);
        throw system_error(failure,
                           fmt::format("cannot give {} its owner {}:{}", quote(file.file), uid, gid));
    }
}

void make_image_file_like(const NewFile& file, const std::string& model_pool, const std::string& model) {
    const UniqueFd beside = open_directory(model_pool);
    const UniqueFd from = open_beneath(beside.get(), model, O_RDONLY);
    const UniqueFd pool = open_directory(file.pool);
    const UniqueFd to = create_file(pool, file.file);
    try {
        copy_access(from.get(), to.get());
    } catch (const Error& error) {
        (void)::unlinkat(pool.get(), file.file.c_str(), 0);
        throw error.during("creating " + quote(file.path()));
    }
}

void flush_image_file(const NewFile& file) {
    const UniqueFd pool = open_directory(file.pool);
    const UniqueFd fd = open_beneath(pool.get(), file.file, O_RDONLY);
    sync(fd.get(), quote(file.file));
    sync(pool.get(), quote(file.pool));
}

void remove_image_file(const NewFile& file) {
    const UniqueFd pool = open_directory(file.pool);
    (void)remove_file(pool.get(), file.file);
}

async::Task<Error> take_back_files(Engine& engine, std::vector<NewFile> files, Error reason) {
    for (const NewFile& file : files) {
        std::exception_ptr failure;
        auto work = [file] { remove_image_file(file); };
        co_await async::keep_failure(engine.files().run(std::move(work)), failure);
        if (!failure) continue;
        reason = Error(reason.code(), "{}; {} stays behind: {}", reason.what(), quote(file.path()),
                       to_error(failure).what());
        co_await remember_unwanted(engine, file.pool, file.file);
    }
    co_return reason;
}

async::Task<> format_image(Engine& engine, JobPtr job, std::shared_ptr<qmp::Session> session, NewFile file,
                           ImageOptions options, std::string name) {
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    const std::string file_node = name + "-f";
    qmp::NodeOptions as_asked;
    as_asked.discard = options.preallocation == Preallocation::off;
    Json node = qmp::file_node(file_node, file.path(), qmp::Access::read_write, as_asked);
    // A raw image is a file that QEMU opens itself to make it.
    const bool raw = options.format == VolumeFormat::raw;
    if (!raw) (void)co_await session->execute("blockdev-add", node, soon);
    Json arguments;
    arguments["options"] = create_options(options, file.path(), file_node);
    qmp::Job creation(session, "create-" + name);
    co_await creation.start("blockdev-create", std::move(arguments), soon);
    co_await follow_creation(job, creation, engine.settings().command_timeout);
    const async::Deadline then = async::after(engine.settings().command_timeout);
    if (raw) (void)co_await session->execute("blockdev-add", std::move(node), then);
}

async::Task<> format_new_file(Engine& engine, JobPtr job, ImageOptions options, NewFile file) {
    const auto helper = co_await start_storage_daemon(engine, file.path());
    co_await format_image(engine, job, helper->session(), file, options, "disk");
    (void)co_await helper->stop(async::after(engine.settings().command_timeout));
    auto flush = [file] { flush_image_file(file); };
    co_await engine.files().run(std::move(flush));
}

}  // namespace volchain::storage
