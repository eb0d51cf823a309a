// SPDX-License-Identifier: MIT
#include "client/restore_source.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/text.h"
#include "client/disk_backup.h"
#include "client/image_tool.h"

namespace volchain::client {
namespace {

void refuse_data_file(const ImageInfo& info, const std::string& path) {
    if (info.data_file)
        throw Error(ErrorCode::unsafe_image, "{} keeps its data in another file; no backup is made so",
                    quote(path));
}

/// "root" of "root.monday.qcow2".
std::string disk_name_of(const std::filesystem::path& path) {
    std::string name = path.stem().string();
    const std::size_t dot = name.rfind('.');
    if (dot != std::string::npos && dot > 0) name.erase(dot);
    return name;
}

}  // namespace

async::Task<RestoreSource> source_in_catalog(BackupWork& work, const BackupDirectory& directory,
                                             const BackupCatalog& catalog, const SavedMoment& moment,
                                             const SavedDisk& disk) {
    RestoreSource source;
    source.name = disk.name;
    source.target = disk.target;
    source.size = disk.size;
    source.checksum = disk.checksum;
    auto chain = catalog.chain(moment, disk);
    std::reverse(chain.begin(), chain.end());
    for (const SavedDisk* part : chain) {
        const std::string path = directory.path_of(part->file);
        if (!directory.length_of(part->file))
            throw Error(ErrorCode::broken_chain,
                        "moment {} cannot be restored: {} is not there; see 'volchainctl backup verify'",
                        moment.id, quote(path));
        const ImageInfo info = co_await image_info(path);
        refuse_data_file(info, path);
        if (info.size != disk.size)
            throw Error(ErrorCode::corrupt_image, "{} is of a disk of {} bytes, not {}", quote(path),
                        info.size, disk.size);
        source.images.push_back(path);
    }
    auto read = [&directory, &catalog, &moment, &disk] {
        return std::make_shared<const MomentDigests>(digest_lists(directory, catalog, moment, disk));
    };
    source.digests = co_await work.run(std::move(read));
    auto sum = [digests = source.digests] { return digests->checksum(); };
    const std::string checksum = co_await work.run(std::move(sum));
    if (checksum != disk.checksum || source.digests->disk_size() != disk.size)
        throw Error(
            ErrorCode::corrupt_image,
            "moment {} cannot be restored: the lists of digests of disk {} do not make the checksum in the "
            "catalogue",
            moment.id, quote(disk.name));
    co_return source;
}

async::Task<RestoreSource> source_in_file(std::string path) {
    std::error_code failure;
    const std::filesystem::path top = std::filesystem::canonical(path, failure);
    if (failure) throw system_error(failure.value(), "cannot open " + quote(path));
    RestoreSource source;
    source.name = disk_name_of(top);
    std::set<std::string> seen;
    std::string name = top.filename().string();
    while (!name.empty()) {
        const std::string image = (top.parent_path() / name).string();
        if (!seen.insert(name).second || seen.size() > longest_chain)
            throw Error(ErrorCode::broken_chain, "{} stands on itself, or on too many images", quote(image));
        const ImageInfo info = co_await image_info(image);
        refuse_data_file(info, image);
        if (source.images.empty()) source.size = info.size;
        source.images.push_back(image);
        name = info.backing;
        const bool plain = name.find('/') == std::string::npos && !name.starts_with('.') &&
                           (name.empty() || info.backing_format == "qcow2");
        if (!plain)
            throw Error(
                ErrorCode::unsafe_image,
                "{} stands on {}, which is no qcow2 image in the same directory; only such chains are "
                "restored",
                quote(image), quote(clipped(name)));
    }
    std::reverse(source.images.begin(), source.images.end());
    co_return source;
}

}  // namespace volchain::client
