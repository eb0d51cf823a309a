// SPDX-License-Identifier: MIT
//
// NamedFiles: the files that images stand on, by the headers of all images in all pools, volumes or not, read now. Before
// a file is removed it shows whether something would lose its backing file; image locks tell only of what is open. Images
// outside of all pools are not seen.
#pragma once

#include <sys/types.h>

#include <compare>
#include <map>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// Which file it is, whatever it is called.
struct FileId {
    dev_t device = 0;
    ino_t inode = 0;
    friend auto operator<=>(const FileId&, const FileId&) = default;
};

struct NamedFiles {
    std::map<FileId, std::string> by;  ///< a file that is named, and the image that names it
    std::string unknown;               ///< why that may not be all; empty: it is

    void may_miss(const std::string& why) {
        if (unknown.empty()) unknown = why;
    }
};

/// What cannot be read, or is not there, is no error: it says that something may be missing.
[[nodiscard]] async::Task<NamedFiles> read_all_headers(Engine& engine);

/// Throws InUse, and says what stands on the volume, where the header of an image in any pool names its file, or where that
/// cannot be told.
async::Task<> check_no_header_names(Engine& engine, Uuid volume);

}  // namespace volchain::storage
