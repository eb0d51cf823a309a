// SPDX-License-Identifier: MIT
//
// Where this is stricter than QEMU 7.2: a name is not empty, holds no NUL (QEMU would take what is
// before it) and appears once also among bitmaps that are in use, as specified; the bitmap table lies
// within the file, and not over another structure of the image: QEMU would free its clusters when it
// stores the bitmap anew.
#include "qcow2/bitmap_directory.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "qcow2/cursor.h"
#include "qcow2/limits.h"
#include "qcow2/region.h"

namespace volchain::qcow2 {
namespace {

constexpr std::uint32_t flag_in_use = 1U << 0;
constexpr std::uint32_t flag_auto = 1U << 1;
constexpr std::uint8_t type_dirty_tracking = 1;

/// Specification, "Bitmap directory". Extra data comes before the name, so the rest of the entry is read
/// only when there is none.
struct Entry {
    std::uint64_t table_offset = 0;
    std::uint32_t table_entries = 0;
    std::uint32_t flags = 0;
    std::uint8_t type = 0;
    std::uint8_t granularity_bits = 0;
    std::uint16_t name_bytes = 0;
    std::uint32_t extra_bytes = 0;
};

Entry read_entry(Cursor& cursor) {
    Entry entry;
    entry.table_offset = cursor.number<std::uint64_t>();
    entry.table_entries = cursor.number<std::uint32_t>();
    entry.flags = cursor.number<std::uint32_t>();
    entry.type = cursor.number<std::uint8_t>();
    entry.granularity_bits = cursor.number<std::uint8_t>();
    entry.name_bytes = cursor.number<std::uint16_t>();
    entry.extra_bytes = cursor.number<std::uint32_t>();
    return entry;
}

std::string read_name(Cursor& cursor, const Entry& entry) {
    if (entry.extra_bytes != 0)
        throw Error(ErrorCode::unsupported, "a bitmap has {} bytes of extra data", entry.extra_bytes);
    if (entry.name_bytes == 0 || entry.name_bytes > max_bitmap_name_bytes)
        throw Error(ErrorCode::corrupt_image, "a bitmap name has {} bytes, not 1 to {}", entry.name_bytes,
                    max_bitmap_name_bytes);
    std::string name = cursor.text(entry.name_bytes);
    if (name.find('\0') != std::string::npos)
        throw Error(ErrorCode::corrupt_image, "the bitmap name {} has a NUL in it", quote(name));
    return name;
}

/// The table has exactly the entries for the disk's size, unless the bitmap is in use: then the disk may
/// have been resized since the bitmap was saved.
void check_table(const Header& header, const Entry& entry, const std::string& name) {
    const std::uint64_t most =
        std::min<std::uint64_t>(max_bitmap_table_entries, max_bitmap_bytes / header.cluster_size());
    if (entry.table_entries == 0 || entry.table_entries > most)
        throw Error(ErrorCode::corrupt_image, "the table of bitmap {} has {} entries, not 1 to {}",
                    quote(name), entry.table_entries, most);
    const std::uint64_t bits = divide_up(header.virtual_size, std::uint64_t{1} << entry.granularity_bits);
    const std::uint64_t needed = divide_up(divide_up(bits, 8), header.cluster_size());
    if ((entry.flags & flag_in_use) == 0 && entry.table_entries != needed)
        throw Error(ErrorCode::corrupt_image,
                    "the table of bitmap {} has {} entries, but the disk's {} bytes need {}", quote(name),
                    entry.table_entries, header.virtual_size, needed);
}

void check_entry(const Header& header, const Entry& entry, const std::string& name) {
    if (entry.type != type_dirty_tracking)
        throw Error(ErrorCode::unsupported, "bitmap {} is of type {}, which is not known here", quote(name),
                    entry.type);
    if ((entry.flags & ~(flag_in_use | flag_auto)) != 0)
        throw Error(ErrorCode::unsupported, "bitmap {} has flags that are not known here: {:#x}", quote(name),
                    entry.flags);
    if (entry.granularity_bits < min_bitmap_granularity_bits ||
        entry.granularity_bits > max_bitmap_granularity_bits)
        throw Error(ErrorCode::unsupported, "the granularity 2^{} of bitmap {} is not between 2^{} and 2^{}",
                    entry.granularity_bits, quote(name), min_bitmap_granularity_bits,
                    max_bitmap_granularity_bits);
    check_table(header, entry, name);
}

Bitmap read_bitmap(Cursor& cursor, const Header& header, std::uint64_t file_size) {
    const Entry entry = read_entry(cursor);
    Bitmap bitmap;
    bitmap.name = read_name(cursor, entry);
    check_entry(header, entry, bitmap.name);
    bitmap.granularity = std::uint64_t{1} << entry.granularity_bits;
    bitmap.in_use = (entry.flags & flag_in_use) != 0;
    bitmap.recording = (entry.flags & flag_auto) != 0;
    bitmap.table = {entry.table_offset, entry.table_entries * table_entry_bytes};
    check_region({"bitmap table", bitmap.table}, header.cluster_size(), file_size);
    cursor.skip_padding();
    return bitmap;
}

void check_tables_apart(const Header& header, const std::vector<Bitmap>& bitmaps) {
    std::vector<NamedRegion> regions{{"L1 table", header.l1_table},
                                     {"refcount table", header.refcount_table},
                                     {"bitmap directory", header.bitmaps->directory}};
    for (const Bitmap& bitmap : bitmaps) regions.push_back({"bitmap table", bitmap.table});
    check_disjoint(std::move(regions));
}

void check_names_differ(const std::vector<Bitmap>& bitmaps) {
    std::vector<std::string_view> names;
    names.reserve(bitmaps.size());
    for (const Bitmap& bitmap : bitmaps) names.push_back(bitmap.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end())
        throw Error(ErrorCode::corrupt_image, "the image has more than one bitmap {}", quote(*twice));
}

}  // namespace

std::vector<Bitmap> read_bitmaps(const ImageSource& source, const Header& header) {
    if (!header.bitmaps) return {};
    const auto& [count, directory] = *header.bitmaps;
    if (directory.bytes > max_bitmap_directory_bytes)
        throw Error(ErrorCode::unsupported, "the directory of {} bitmaps has {} bytes, more than {}", count,
                    directory.bytes, max_bitmap_directory_bytes);
    Cursor cursor(source, directory.offset, directory.offset + directory.bytes, "bitmap directory");
    const std::uint64_t file_size = source.size();
    std::vector<Bitmap> bitmaps;
    bitmaps.reserve(count);
    for (std::uint32_t i = 0; i < count; ++i) bitmaps.push_back(read_bitmap(cursor, header, file_size));
    if (cursor.remaining() != 0)
        throw Error(ErrorCode::corrupt_image, "the bitmap directory has {} bytes after its {} entries",
                    cursor.remaining(), count);
    check_names_differ(bitmaps);
    check_tables_apart(header, bitmaps);
    return bitmaps;
}

}  // namespace volchain::qcow2
