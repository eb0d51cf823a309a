// SPDX-License-Identifier: MIT
#include "storage/records/snapshot_file.h"

#include <filesystem>

#include "base/text.h"

namespace volchain::storage {
namespace {

std::string name_beside(const std::string& beside, const std::string& vm, const Uuid& id,
                        const std::string& extension) {
    const std::string name = fmt::format("{}-{}.{}", file_name_part(vm), id.str(), extension);
    return (std::filesystem::path(beside).parent_path() / name).string();
}

}  // namespace

Json json_of(const std::vector<SnapshotFile>& files) {
    Json list = Json::array();
    for (const SnapshotFile& file : files) {
        Json entry;
        entry["kind"] = word(file.kind);
        entry["pool"] = file.pool.str();
        entry["file"] = file.file;
        entry["bytes"] = file.bytes;
        if (!file.store.empty()) entry["store"] = file.store;
        list.push_back(std::move(entry));
    }
    return list;
}

std::vector<SnapshotFile> snapshot_files(const JsonReader& list) {
    std::vector<SnapshotFile> files;
    for (const JsonReader& entry : list.elements()) {
        const auto kind = from_word<SnapshotFileKind>(entry.at("kind").string());
        if (!kind) entry.at("kind").fail("one of " + all_words<SnapshotFileKind>());
        files.push_back({*kind, id_in(entry.at("pool")), entry.at("file").string(), entry.at("bytes").u64(),
                         entry.string_or("store", "")});
    }
    return files;
}

Json json_of(const std::vector<NvramStore>& stores) {
    Json list = Json::array();
    for (const NvramStore& store : stores) {
        Json entry;
        entry["path"] = store.path;
        entry["uid"] = store.uid;
        list.push_back(std::move(entry));
    }
    return list;
}

std::vector<NvramStore> nvram_stores(const JsonReader& list) {
    std::vector<NvramStore> stores;
    for (const JsonReader& entry : list.elements())
        stores.push_back({entry.at("path").string(), static_cast<std::uint32_t>(entry.at("uid").u64())});
    return stores;
}

Uuid snapshot_with_file(const Catalog& catalog, const std::string& path) {
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotFile& file : snapshot.files)
            if (catalog.pool(file.pool).path + "/" + file.file == path) return id;
    return {};
}

std::string memory_file_name(const std::string& beside, const std::string& vm, const Uuid& id) {
    return name_beside(beside, vm, id, "memory");
}

std::string nvram_file_name(const std::string& beside, const std::string& vm, const Uuid& id,
                            std::size_t index) {
    return name_beside(beside, vm, id, fmt::format("nvram{}", index));
}

}  // namespace volchain::storage
