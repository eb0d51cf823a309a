// SPDX-License-Identifier: MIT
//
// Where this is stricter than QEMU 7.2: an extension type that we know appears once at most, as
// specified (QEMU takes the last one, other readers the first); names hold no NUL; what extensions point
// to lies within the file; an encryption header is there if and only if the method is LUKS, also when
// the image is not opened for its data.
#include "qcow2/extensions.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "qcow2/cursor.h"
#include "qcow2/limits.h"
#include "qcow2/region.h"

namespace volchain::qcow2 {
namespace {

/// The part of a LUKS header that is always there (specification, "Full disk encryption header pointer").
constexpr std::uint64_t min_luks_header_bytes = 592;
constexpr std::string_view luks_magic = "LUKS\xba\xbe";

struct Extension {
    std::uint32_t type = 0;
    std::uint32_t bytes = 0;
};

/// The head of the next extension; none at the end marker, or where the area ends without one.
std::optional<Extension> next_extension(Cursor& cursor) {
    if (cursor.remaining() == 0) return std::nullopt;
    Extension extension;
    extension.type = cursor.number<std::uint32_t>();
    extension.bytes = cursor.number<std::uint32_t>();
    if (extension.bytes > cursor.remaining())
        throw Error(ErrorCode::corrupt_image,
                    "the header extension {:#010x} at offset {} has {} bytes, but there is room for {}",
                    extension.type, cursor.offset() - 8, extension.bytes, cursor.remaining());
    if (extension.type == extension_end) return std::nullopt;
    return extension;
}

/// A string extension, none if it is empty.
std::optional<std::string> read_name(Cursor& cursor, std::uint32_t bytes, std::uint32_t limit,
                                     std::string_view what) {
    if (bytes > limit)
        throw Error(ErrorCode::corrupt_image, "the {} has {} bytes, more than {}", what, bytes, limit);
    std::string name = cursor.text(bytes);
    if (name.find('\0') != std::string::npos)
        throw Error(ErrorCode::corrupt_image, "the {} {} has a NUL in it", what, quote(name));
    if (name.empty()) return std::nullopt;
    return name;
}

/// Specification, "Feature name table". Entries beyond one for each bit, kinds and bits that do not
/// exist, and a part of an entry at the end are passed over: the table is a help for messages and
/// nothing depends on it.
FeatureNames read_feature_names(Cursor& cursor, std::uint32_t bytes) {
    FeatureNames names;
    const std::uint32_t count = std::min(bytes / feature_name_entry_bytes, max_feature_names);
    for (std::uint32_t i = 0; i < count; ++i) {
        const auto kind = cursor.number<std::uint8_t>();
        const auto bit = cursor.number<std::uint8_t>();
        std::string name = cursor.text(feature_name_entry_bytes - 2);
        name.resize(std::min(name.size(), name.find('\0')));
        if (kind <= 2 && bit < 64) names.push_back({static_cast<FeatureKind>(kind), bit, std::move(name)});
    }
    return names;
}

void check_size(const Extension& extension, std::uint32_t bytes, std::string_view what) {
    if (extension.bytes != bytes)
        throw Error(ErrorCode::corrupt_image, "the {} has {} bytes, not {}", what, extension.bytes, bytes);
}

void read_bitmaps_extension(Cursor& cursor, const Extension& extension, std::uint64_t file_size,
                            Header& header) {
    check_size(extension, 24, "bitmaps extension");
    if (!header.features.bitmaps) {
        header.stale_bitmaps = true;
        return;
    }
    BitmapsExtension bitmaps;
    bitmaps.count = cursor.number<std::uint32_t>();
    const auto reserved = cursor.number<std::uint32_t>();
    bitmaps.directory.bytes = cursor.number<std::uint64_t>();
    bitmaps.directory.offset = cursor.number<std::uint64_t>();
    if (reserved != 0)
        throw Error(ErrorCode::corrupt_image, "the bitmaps extension has {} in a reserved field", reserved);
    if (bitmaps.count == 0 || bitmaps.count > max_bitmaps)
        throw Error(ErrorCode::corrupt_image, "the bitmaps extension has {} bitmaps, not 1 to {}",
                    bitmaps.count, max_bitmaps);
    // The shortest entry has a name of one byte and is padded to a multiple of 8.
    const std::uint64_t least = bitmaps.count * (bitmap_entry_bytes + 8);
    if (bitmaps.directory.bytes < least || bitmaps.directory.bytes > qemu_max_bitmap_directory_bytes)
        throw Error(ErrorCode::corrupt_image, "the directory of {} bitmaps has {} bytes, not {} to {}",
                    bitmaps.count, bitmaps.directory.bytes, least, qemu_max_bitmap_directory_bytes);
    check_region({"bitmap directory", bitmaps.directory}, header.cluster_size(), file_size);
    header.bitmaps = bitmaps;
}

void read_encryption_extension(Cursor& cursor, const Extension& extension, const ImageSource& source,
                               Header& header) {
    check_size(extension, 16, "encryption header pointer");
    if (header.encryption != Encryption::luks)
        throw Error(ErrorCode::corrupt_image, "the image has an encryption header, but its encryption is {}",
                    name(header.encryption));
    Region region;
    region.offset = cursor.number<std::uint64_t>();
    region.bytes = cursor.number<std::uint64_t>();
    if (region.bytes < min_luks_header_bytes)
        throw Error(ErrorCode::corrupt_image, "the encryption header has {} bytes, fewer than {}",
                    region.bytes, min_luks_header_bytes);
    check_region({"encryption header", region}, header.cluster_size(), source.size());
    Cursor luks(source, region.offset, region.offset + region.bytes, "encryption header");
    if (luks.text(luks_magic.size()) != luks_magic)
        throw Error(ErrorCode::corrupt_image, "the encryption header at offset {} is not one of LUKS",
                    region.offset);
    header.encryption_header = region;
}

bool known(std::uint32_t type) {
    return type == extension_backing_format || type == extension_feature_names || type == extension_bitmaps ||
           type == extension_encryption || type == extension_data_file || type == extension_label;
}

}  // namespace

FeatureNames read_extensions(const ImageSource& source, const Region& area, Header& header) {
    Cursor cursor(source, area.offset, area.offset + area.bytes, "header extension area");
    FeatureNames names;
    std::set<std::uint32_t> seen;
    while (const auto extension = next_extension(cursor)) {
        const std::uint64_t end = cursor.offset() + extension->bytes;
        if (known(extension->type) && !seen.insert(extension->type).second)
            throw Error(ErrorCode::corrupt_image, "the header extension {:#010x} appears more than once",
                        extension->type);
        switch (extension->type) {
            case extension_backing_format:
                header.backing_format =
                    read_name(cursor, extension->bytes, max_backing_format_bytes, "backing format");
                break;
            case extension_data_file:
                header.data_file =
                    read_name(cursor, extension->bytes, max_data_file_name_bytes, "data file name");
                break;
            case extension_label:
                header.label = read_name(cursor, extension->bytes, max_label_bytes, "label");
                break;
            case extension_feature_names:
                names = read_feature_names(cursor, extension->bytes);
                break;
            case extension_bitmaps:
                read_bitmaps_extension(cursor, *extension, source.size(), header);
                break;
            case extension_encryption:
                read_encryption_extension(cursor, *extension, source, header);
                break;
            default:
                break;  // "Unknown header extension, can be safely ignored"
        }
        cursor.skip(end - cursor.offset());
        cursor.skip_padding();
    }
    if (header.features.bitmaps && !header.bitmaps)
        throw Error(ErrorCode::corrupt_image,
                    "the feature bit for bitmaps is set, but the bitmaps extension is missing");
    if (header.encryption == Encryption::luks && !header.encryption_header)
        throw Error(ErrorCode::corrupt_image,
                    "the image is encrypted with LUKS, but the encryption header is missing");
    return names;
}

FeatureNames find_feature_names(const ImageSource& source, const Region& area) {
    try {
        Cursor cursor(source, area.offset, std::min(area.offset + area.bytes, source.size()),
                      "header extension area");
        while (const auto extension = next_extension(cursor)) {
            if (extension->type == extension_feature_names)
                return read_feature_names(cursor, extension->bytes);
            cursor.skip(extension->bytes);
            cursor.skip_padding();
        }
    } catch (const Error& error) {
        if (error.code() != ErrorCode::corrupt_image) throw;
    }
    return {};
}

std::string feature_name(const FeatureNames& names, FeatureKind kind, std::uint32_t bit) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const FeatureName& entry) {
        return entry.kind == kind && entry.bit == bit;
    });
    return found == names.end() ? std::string() : found->name;
}

}  // namespace volchain::qcow2
