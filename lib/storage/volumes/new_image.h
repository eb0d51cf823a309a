// SPDX-License-Identifier: MIT
//
// NewImage: an image file in the making, for the operations that fill one: what it is to be like, the empty file with its
// owner and mode, its format. It belongs to nobody until its volume is recorded; whoever makes it removes it where that does
// not come to pass. Overlays are made elsewhere (overlay_file.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

enum class Preallocation { off, metadata, falloc, full };
constexpr auto enum_names(Preallocation) {
    return std::to_array<EnumName<Preallocation>>({{Preallocation::off, "off"},
                                                   {Preallocation::metadata, "metadata"},
                                                   {Preallocation::falloc, "falloc"},
                                                   {Preallocation::full, "full"}});
}

/// What the image is to be like. A class with a constructor, so that it may be handed to coroutines.
struct ImageOptions {
    explicit ImageOptions(std::uint64_t bytes) : size(bytes) {}

    std::uint64_t size;
    VolumeFormat format = VolumeFormat::qcow2;
    Preallocation preallocation = Preallocation::off;
    std::optional<std::uint64_t> cluster_size;  ///< qcow2 only, as the two below
    bool extended_l2 = false;
    std::optional<std::string> compression;
};

/// InvalidArgument where the options do not go together; nothing is made yet then.
void check_image_options(const ImageOptions& options);

/// Where the file is made. A class with a constructor, so that it may be handed to coroutines.
struct NewFile {
    NewFile(std::string directory, std::string name) : pool(std::move(directory)), file(std::move(name)) {}

    std::string pool;  ///< directory
    std::string file;  ///< relative to it
    [[nodiscard]] std::string path() const { return pool + "/" + file; }
};

/// The name of a new image: made of the disk's name and the volume's id.
[[nodiscard]] std::string image_file_name(const std::string& disk, const Uuid& volume, VolumeFormat format);

// Blocking: run on a worker thread.

/// The empty file (O_EXCL), with owner and mode as configured, or else the owner of the pool's directory.
void make_image_file(const NewFile& file, const Settings& settings);
/// The empty file, which whatever may open `model` may open; that is an image in the directory `model_pool`.
void make_image_file_like(const NewFile& file, const std::string& model_pool, const std::string& model);
/// Its content and its entry in the directory are on the medium when this returns.
void flush_image_file(const NewFile& file);
/// Nothing happens where it is not there.
void remove_image_file(const NewFile& file);

/// Takes back what an operation has made and no record names. A file that cannot go is remembered, and named in the reason.
async::Task<Error> take_back_files(Engine& engine, std::vector<NewFile> files, Error reason);

/// Makes an empty image of the file in a storage daemon that may write to it (blockdev-create), with the job's progress;
/// a cancel breaks it off. Afterwards node `<name>-f` is the file, and nothing else is open.
async::Task<> format_image(Engine& engine, JobPtr job, std::shared_ptr<qmp::Session> session, NewFile file,
                           ImageOptions options, std::string name);
/// The same in a storage daemon of its own; the image is on the medium when this returns.
async::Task<> format_new_file(Engine& engine, JobPtr job, ImageOptions options, NewFile file);

}  // namespace volchain::storage
