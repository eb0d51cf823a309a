// SPDX-License-Identifier: MIT
#include "client/backup_catalog.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "base/uuid.h"
#include "client/block_hash.h"

namespace volchain::client {
namespace {

constexpr const char* catalog_format = "volchain-backup";
constexpr std::uint64_t catalog_version = 1;
constexpr std::size_t longest_file_name = 255;
constexpr std::size_t longest_text = 4096;
constexpr std::uint64_t largest_size = std::uint64_t{1} << 62;
constexpr std::size_t checksum_digits = 64;
constexpr std::size_t most_depth = 16;

std::string text_of(const JsonReader& reader) {
    if (reader.string().size() > longest_text) reader.fail("is too long");
    return reader.string();
}

std::string text_or_none(const JsonReader& reader, std::string_view member) {
    const auto found = reader.find(member);
    return found ? text_of(*found) : std::string();
}

std::string uuid_in(const JsonReader& reader) {
    const auto id = Uuid::parse(reader.string());
    if (!id) reader.fail("expected a UUID");
    return id->str();
}

std::uint64_t size_in(const JsonReader& reader) {
    if (reader.u64() > largest_size) reader.fail("is more than there can be");
    return reader.u64();
}

std::string digits_in(const JsonReader& reader) {
    const std::string& text = reader.string();
    if (text.size() != checksum_digits || text.find_first_not_of("0123456789abcdef") != std::string::npos)
        reader.fail("expected 64 hexadecimal digits");
    return text;
}

/// As they are in names of files: letters, digits and '-'.
std::string moment_id_in(const JsonReader& reader) {
    const std::string& text = reader.string();
    const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-';
    });
    if (text.empty() || text.size() > 64 || !plain) reader.fail("is no moment");
    return text;
}

// --- one disk ----------------------------------------------------------------------------------------------

Json disk_json(const SavedDisk& disk) {
    Json json{{"id", disk.id},
              {"name", disk.name},
              {"target", disk.target},
              {"size", disk.size},
              {"kind", disk.full() ? "full" : "incremental"},
              {"file", disk.file},
              {"file_bytes", disk.file_bytes},
              {"data_bytes", disk.data_bytes},
              {"digests", disk.digests},
              {"checksum", disk.checksum}};
    if (!disk.full()) json["on"] = disk.on;
    if (!disk.why.empty()) json["why"] = disk.why;
    return json;
}

SavedDisk disk_in(const JsonReader& reader) {
    SavedDisk disk;
    disk.id = uuid_in(reader.at("id"));
    disk.name = text_of(reader.at("name"));
    disk.target = text_or_none(reader, "target");
    disk.size = size_in(reader.at("size"));
    if (disk.size % 512 != 0) reader.at("size").fail("is no multiple of 512");
    disk.file = file_name_in(reader.at("file"));
    disk.file_bytes = size_in(reader.at("file_bytes"));
    disk.data_bytes = size_in(reader.at("data_bytes"));
    disk.digests = file_name_in(reader.at("digests"));
    disk.checksum = digits_in(reader.at("checksum"));
    disk.why = text_or_none(reader, "why");
    if (const auto on = reader.find("on")) disk.on = moment_id_in(*on);
    const std::string kind = reader.at("kind").string();
    if (kind != (disk.full() ? "full" : "incremental"))
        reader.at("kind").fail("does not fit to what it stands on");
    return disk;
}

// --- one moment --------------------------------------------------------------------------------------------

Json moment_json(const SavedMoment& moment) {
    Json json{{"id", moment.id},
              {"time_usec", moment.usec},
              {"vm_name", moment.vm_name},
              {"consistency", moment.consistency},
              {"checkpoint", moment.checkpoint},
              {"disks", Json::array()}};
    if (moment.config)
        json["config"] = Json{
            {"file", moment.config->file}, {"type", moment.config->type}, {"sha256", moment.config->sha256}};
    for (const SavedDisk& disk : moment.disks) json["disks"].push_back(disk_json(disk));
    return json;
}

SavedMoment moment_in(const JsonReader& reader) {
    SavedMoment moment;
    moment.id = moment_id_in(reader.at("id"));
    moment.usec = size_in(reader.at("time_usec"));
    moment.vm_name = text_of(reader.at("vm_name"));
    moment.consistency = text_or_none(reader, "consistency");
    moment.checkpoint = text_or_none(reader, "checkpoint");
    if (const auto config = reader.find("config"))
        moment.config = SavedConfig{file_name_in(config->at("file")), text_of(config->at("type")),
                                    digits_in(config->at("sha256"))};
    const auto disks = reader.at("disks").elements();
    if (disks.empty() || disks.size() > most_disks) reader.at("disks").fail("has none, or too many");
    for (const JsonReader& disk : disks) {
        moment.disks.push_back(disk_in(disk));
        const std::string& id = moment.disks.back().id;
        if (moment.disk(id) != &moment.disks.back()) disk.fail("is there twice");
    }
    return moment;
}

/// What it stands on is there, and before it.
void check_links(const BackupCatalog& catalog, const SavedMoment& moment, const JsonReader& reader) {
    if (catalog.moment(moment.id) != nullptr) reader.fail("is there twice");
    for (const SavedDisk& disk : moment.disks) {
        if (disk.full()) continue;
        const SavedMoment* below = catalog.moment(disk.on);
        const SavedDisk* same = below == nullptr ? nullptr : below->disk(disk.id);
        if (same == nullptr)
            reader.fail(fmt::format("disk {} stands on moment {}, which has none such or is not before it",
                                    quote(disk.name), quote(disk.on)));
        if (same->size != disk.size)
            reader.fail(fmt::format("disk {} stands on one of another size", quote(disk.name)));
        if (catalog.chain(*below, *same).size() >= longest_chain)
            reader.fail(fmt::format("disk {} stands on too many files", quote(disk.name)));
    }
}

void check_names(const BackupCatalog& catalog) {
    std::set<std::string> names;
    for (const std::string& name : catalog.files())
        if (!names.insert(name).second)
            throw Error(ErrorCode::corrupt_image, "the catalogue: two things are in one file, {}",
                        quote(name));
}

}  // namespace

std::string file_name_in(const JsonReader& reader) {
    const std::string& name = reader.string();
    const bool control = std::any_of(
        name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
    if (name.empty() || name.size() > longest_file_name || name.front() == '.' || control ||
        name.find('/') != std::string::npos || !valid_utf8(name))
        reader.fail("expected the name of a file in the directory");
    return name;
}

const SavedDisk* SavedMoment::disk(std::string_view wanted) const {
    const auto found = std::find_if(disks.begin(), disks.end(),
                                    [wanted](const SavedDisk& disk) { return disk.id == wanted; });
    return found == disks.end() ? nullptr : &*found;
}

const SavedMoment* BackupCatalog::moment(std::string_view wanted) const {
    // Nearly always one of the last.
    const auto found = std::find_if(moments.rbegin(), moments.rend(),
                                    [wanted](const SavedMoment& moment) { return moment.id == wanted; });
    return found == moments.rend() ? nullptr : &*found;
}

std::vector<const SavedDisk*> BackupCatalog::chain(const SavedMoment& moment_of_it,
                                                   const SavedDisk& disk) const {
    std::vector<const SavedDisk*> all{&disk};
    const SavedMoment* at = &moment_of_it;
    while (!all.back()->full()) {
        at = moment(all.back()->on);
        const SavedDisk* below = at == nullptr ? nullptr : at->disk(disk.id);
        if (below == nullptr) throw Error(ErrorCode::internal, "a chain of backups has an end in the air");
        all.push_back(below);
    }
    return all;
}

std::vector<std::string> BackupCatalog::files() const {
    std::vector<std::string> names;
    for (const SavedMoment& one : moments) {
        if (one.config) names.push_back(one.config->file);
        for (const SavedDisk& disk : one.disks) {
            names.push_back(disk.file);
            names.push_back(disk.digests);
        }
    }
    return names;
}

std::string BackupCatalog::text() const {
    Json json{{"format", catalog_format}, {"version", catalog_version},      {"id", id},
              {"vm_id", vm_id},           {"algorithm", checksum_algorithm}, {"moments", Json::array()}};
    for (const SavedMoment& one : moments) json["moments"].push_back(moment_json(one));
    return json.dump(1) + "\n";
}

BackupCatalog BackupCatalog::parse(std::string_view text) {
    const Json json = parse_json(text, "the catalogue", ErrorCode::corrupt_image, most_depth);
    const JsonReader reader(json, "the catalogue", ErrorCode::corrupt_image);
    if (reader.at("format").string() != catalog_format) reader.fail("is none of backups");
    if (reader.at("version").u64() != catalog_version)
        throw Error(ErrorCode::unsupported,
                    "the catalogue is of version {}; this volchainctl knows version {}",
                    reader.at("version").u64(), catalog_version);
    if (reader.at("algorithm").string() != checksum_algorithm)
        throw Error(ErrorCode::unsupported, "the catalogue has checksums of another kind: {}",
                    quote(reader.at("algorithm").string()));
    BackupCatalog catalog;
    catalog.id = uuid_in(reader.at("id"));
    catalog.vm_id = uuid_in(reader.at("vm_id"));
    const auto moments = reader.at("moments").elements();
    if (moments.size() > most_moments) reader.at("moments").fail("are too many");
    for (const JsonReader& one : moments) {
        SavedMoment moment = moment_in(one);
        check_links(catalog, moment, one);
        catalog.moments.push_back(std::move(moment));
    }
    check_names(catalog);
    return catalog;
}

}  // namespace volchain::client
