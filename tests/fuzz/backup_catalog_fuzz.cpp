// SPDX-License-Identifier: MIT
//
// Feeds what anybody could have put into a directory of backups to what reads it. A catalogue is refused, or what was read and
// written down again is read as the same, and all of its files are names in the directory. A list of digests is refused, or
// its runs are in order and in the disk, and the checksum of the disk can be made of it.
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "client/backup_catalog.h"
#include "client/digest_list.h"

namespace volchain::client {
namespace {

/// A checksum takes time where a disk is large, whatever is in it.
constexpr std::uint64_t most_blocks = 1 << 16;

void read_catalog(std::string_view text) {
    const BackupCatalog catalog = BackupCatalog::parse(text);
    if (BackupCatalog::parse(catalog.text()).text() != catalog.text()) std::abort();
    for (const std::string& name : catalog.files())
        if (name.empty() || name.find('/') != std::string::npos || name.front() == '.') std::abort();
    for (const SavedMoment& moment : catalog.moments)
        for (const SavedDisk& disk : moment.disks)
            if (!catalog.chain(moment, disk).back()->full()) std::abort();
}

void read_list(std::string_view bytes) {
    UniqueFd file(::memfd_create("list", MFD_CLOEXEC));
    write_at(file.get(), std::as_bytes(std::span(bytes)), 0);
    auto list = std::make_shared<const DigestList>(std::move(file), "list");
    std::uint64_t end = 0;
    for (const BlockRun& run : list->runs()) {
        if (run.first < end || run.count == 0) std::abort();
        end = run.first + run.count;
    }
    if (end > blocks_of(list->disk_size())) std::abort();
    if (blocks_of(list->disk_size()) > most_blocks) return;
    std::vector<std::shared_ptr<const DigestList>> lists{list, list};
    if (MomentDigests(std::move(lists)).checksum().size() != 64) std::abort();
}

template <typename F>
void or_refused_as_damaged(const F& call) {
    try {
        call();
    } catch (const Error& error) {
        if (error.code() != ErrorCode::corrupt_image && error.code() != ErrorCode::unsupported) std::abort();
    }
}

}  // namespace
}  // namespace volchain::client

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    volchain::client::or_refused_as_damaged([text] { volchain::client::read_catalog(text); });
    volchain::client::or_refused_as_damaged([text] { volchain::client::read_list(text); });
    return 0;
}
