// SPDX-License-Identifier: MIT
//
// Stray files: files in the directories of a disk's volumes that no record knows, but that have a name as volchain gives
// to the images that it makes, or that an operation was to unlink and could not (UnwantedFile).
//
// A name proves nothing: a pool that was forgotten and made again, or a state directory that was lost, leaves every image
// of every VM like that. So a stray file may go only where volchain itself has given it up, or where it is an overlay of
// this disk that holds nothing; and then only where nothing is seen that could need it: no header of any image in any
// pool, no QEMU, no job, no configuration of a VM. All others are for people to look at.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

/// The name of an image that volchain made: of a volume of a disk (overlay_file_name(), create_disk()).
struct OwnName {
    std::string disk;  ///< file_name_part() of its name at that time
    Uuid volume;
    VolumeFormat format{};
};
/// `file`: with or without directories. None where it is another kind of name.
[[nodiscard]] std::optional<OwnName> own_name(const std::string& file);

/// The stray files that concern the disk: those whose name is that of another disk are for that one's check. A finding
/// says why a file stays; without a reason it is mended by Remedy::unlink_file.
[[nodiscard]] async::Task<Findings> find_stray_files(Engine& engine, DiskView view);

/// Unlinks one of them, after another look at all that could need it.
async::Task<> unlink_stray_file(Engine& engine, DiskView view, std::string path);

}  // namespace volchain::storage
