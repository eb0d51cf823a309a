// SPDX-License-Identifier: MIT
//
// What one image file is, read from its header by our own reader, before and without QEMU; and what of it
// policy forbids. Blocking: run on a worker thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "qcow2/bitmap_directory.h"
#include "qcow2/header.h"
#include "storage/records/records.h"

namespace volchain::storage {

enum class VolumeState { ok, missing, corrupt };
constexpr auto enum_names(VolumeState) {
    return std::to_array<EnumName<VolumeState>>(
        {{VolumeState::ok, "ok"}, {VolumeState::missing, "missing"}, {VolumeState::corrupt, "corrupt"}});
}

/// What a header says of the file below.
struct BackingReference {
    std::string name;    ///< as it stands in the header
    std::string path;    ///< absolute, "." and ".." resolved by text; empty where the name is no plain path
    std::string format;  ///< empty where the header names none
};

/// Of an image of that pool whose header names a backing file.
[[nodiscard]] BackingReference backing_reference(const std::string& pool, const std::string& file,
                                                 const qcow2::Header& header);

/// What the last look at a volume's file said.
struct VolumeFacts {
    VolumeState state = VolumeState::missing;
    std::string problem;  ///< why it is not ok
    std::uint64_t size = 0;
    std::uint64_t allocated = 0;          ///< bytes of the file system
    std::optional<qcow2::Header> header;  ///< none for raw
    std::optional<BackingReference> backing;
    std::vector<qcow2::Bitmap> bitmaps;
};

/// The disk in a raw file of so many bytes: QEMU counts in sectors and fills the last one up with zeroes.
[[nodiscard]] std::uint64_t raw_disk_size(std::uint64_t file_bytes);

/// The facts of the image at `path`, whose format is declared. Never throws for what is in the file: damage
/// becomes a state and a problem.
[[nodiscard]] VolumeFacts inspect_image(const std::string& pool, const std::string& file,
                                        VolumeFormat format);

/// The facts of an image that is not ours yet. Throws NotFound, CorruptImage, Unsupported, UnsafeImage for
/// all that an import must refuse: links, data files, encryption, file names that are more than a path, a
/// backing file without a format, a file declared raw that carries the marks of another format. `format`:
/// what the caller or the header above declares; none: the file must be qcow2, for raw is nothing that can be
/// found out.
[[nodiscard]] VolumeFacts inspect_foreign_image(const std::string& pool, const std::string& file,
                                                std::optional<VolumeFormat> format);

/// The format that inspect_foreign_image() found.
[[nodiscard]] inline VolumeFormat format_of(const VolumeFacts& facts) {
    return facts.header ? VolumeFormat::qcow2 : VolumeFormat::raw;
}

}  // namespace volchain::storage
