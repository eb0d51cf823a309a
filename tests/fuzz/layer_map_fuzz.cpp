// SPDX-License-Identifier: MIT
//
// Maps images of arbitrary tables. A map may end in a refusal, with CorruptImage or Unsupported and with
// nothing else. Up to there its extents lie one behind the other and differ, say what a second, naive look
// at the tables says, and little was read for them. Costs come out the same from the extents and from the
// maps. Each input is read twice, as in qcow2_fuzz.cpp, but with 1 MiB of zeroes: large tables take time.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "qcow2/big_endian.h"
#include "qcow2/layer_cost.h"
#include "qcow2/limits.h"
#include "qcow2_input.h"

namespace volchain::qcow2 {
namespace {

std::uint64_t number_at(const ImageSource& source, std::uint64_t offset) {
    std::array<std::byte, 8> bytes{};
    source.read(bytes, offset);
    return load_be<std::uint64_t>(bytes);
}

/// A layer in which all, or nothing, is in place.
class EvenMap final : public LayerMap {
  public:
    EvenMap(std::uint64_t size, std::uint64_t cluster_size, bool in_place)
        : LayerMap(size, cluster_size), in_place_(in_place) {}

  private:
    LayerExtent piece(std::uint64_t offset) override {
        return {offset, virtual_size(), LayerKind::absent, in_place_};
    }

    bool in_place_;
};

/// One byte of the disk, as the specification has it ("Cluster mapping", "Extended L2 Entries").
LayerExtent look_up(const ImageSource& source, const Header& header, std::uint64_t offset) {
    const std::uint64_t size = header.cluster_size();
    const std::uint64_t width = header.features.extended_l2 ? 16 : 8;
    const std::uint64_t cluster = offset / size;
    const std::uint64_t table =
        number_at(source, header.l1_table.offset + cluster / (size / width) * 8) & 0x00fffffffffffe00;
    LayerExtent byte{offset, 1, LayerKind::absent, false};
    if (table == 0) return byte;
    const std::uint64_t at = table + cluster % (size / width) * width;
    const std::uint64_t entry = number_at(source, at);
    if ((entry >> 62 & 1) != 0) {
        byte.kind = LayerKind::data;
        return byte;
    }
    const std::uint64_t host = entry & 0x00fffffffffffe00;
    byte.in_place = host != 0 && entry >> 63 != 0;
    bool data = host != 0 && (entry & 1) == 0;
    bool zero = (entry & 1) != 0;
    if (width == 16) {
        const std::uint64_t bitmap = number_at(source, at + 8);
        const std::uint64_t subcluster = offset % size / (size / 32);
        data = (bitmap >> subcluster & 1) != 0;
        zero = (bitmap >> (32 + subcluster) & 1) != 0;
    }
    require(!data || !zero);
    if (data) byte.kind = LayerKind::data;
    if (zero) byte.kind = LayerKind::zero;
    return byte;
}

void check_extents(const PaddedSource& source, const Header& header, const std::vector<LayerExtent>& extents,
                   bool whole) {
    std::uint64_t end = 0;
    for (std::size_t i = 0; i < extents.size(); ++i) {
        const LayerExtent& extent = extents[i];
        require(extent.offset == end && extent.length > 0 && extent.length <= header.virtual_size - end);
        end += extent.length;
        if (i > 0) require(extent.kind != extents[i - 1].kind || extent.in_place != extents[i - 1].in_place);
        if (i >= 256) continue;
        for (const std::uint64_t offset : {extent.offset, extent.offset + extent.length / 2, end - 1}) {
            const LayerExtent byte = look_up(source, header, offset);
            require(byte.kind == extent.kind && byte.in_place == extent.in_place);
        }
    }
    require(!whole || end == header.virtual_size);
}

void check_costs(const ImageSource& source, const Header& header, const std::vector<LayerExtent>& extents) {
    LayerBytes bytes;
    for (const LayerExtent& extent : extents) {
        if (extent.kind == LayerKind::data) bytes.data += extent.length;
        if (extent.kind == LayerKind::zero) bytes.zero += extent.length;
    }
    Qcow2LayerMap map(source, header);
    const LayerBytes found = bytes_of(map);
    require(found.data == bytes.data && found.zero == bytes.zero);
    require(found.data + found.zero + found.absent == header.virtual_size);

    // Sectors are the least that an extent is made of.
    Qcow2LayerMap upper(source, header);
    EvenMap nothing(header.virtual_size / 2, sector_bytes, false);
    const MissingBytes all = bytes_missing(upper, nothing);
    require(all.data == bytes.data && all.zero == bytes.zero);

    Qcow2LayerMap over(source, header);
    EvenMap everything(header.virtual_size, 65536, true);
    const MissingBytes none = bytes_missing(over, everything);
    require(none.data == 0 && none.zero == 0);

    const std::uint64_t size = header.cluster_size();
    EvenMap writes_all(header.virtual_size, size, false);
    Qcow2LayerMap lower(source, header);
    const MissingBytes nothing_to_write = bytes_missing(writes_all, lower);
    require(nothing_to_write.data == 0 && nothing_to_write.zero == 0);

    Qcow2LayerMap itself(source, header);
    Qcow2LayerMap again(source, header);
    const MissingBytes missing = bytes_missing(itself, again);
    require(missing.data % size == 0 && missing.zero % size == 0);
    require(missing.data + missing.zero <= divide_up(header.virtual_size, size) * size);
    std::uint64_t least = 0;
    for (const LayerExtent& extent : extents)
        if (extent.kind == LayerKind::data && !extent.in_place) least += extent.length;
    require(missing.data >= least);
}

/// Parts of the map are what they are in the whole, wherever they begin and end.
void check_parts(const ImageSource& source, const Header& header, const std::vector<LayerExtent>& extents) {
    Qcow2LayerMap map(source, header);
    std::uint64_t from = 0;
    for (std::size_t i = 0; i < extents.size() && i < 256; ++i) {
        const LayerExtent& extent = extents[i];
        const std::uint64_t end = extent.offset + extent.length;
        if (from >= end) continue;  // left out
        const std::uint64_t until = std::min(header.virtual_size, from + extent.length / 2 + 1);
        const LayerExtent part = map.at(from, until);
        require(part.kind == extent.kind && part.in_place == extent.in_place && part.offset == from);
        require(part.length == std::min(end, until) - from);
        from += part.length + (i % 3 == 0 ? extent.length : 0);
        if (from < end) --i;
    }
}

void check_image(const PaddedSource& source) {
    Header header;
    if (!accepted([&] { header = read_header(source); })) return;
    source.expect_at_most(4U << 20);
    std::vector<LayerExtent> extents;
    const bool good = accepted([&] {
        Qcow2LayerMap map(source, header);
        while (const auto extent = map.next()) extents.push_back(*extent);
    });
    source.expect_at_most(max_l1_bytes + source.size());
    check_extents(source, header, extents, good);
    if (!good) return;
    check_costs(source, header, extents);
    check_parts(source, header, extents);
}

}  // namespace
}  // namespace volchain::qcow2

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    volchain::qcow2::check_image({bytes, 0});
    volchain::qcow2::check_image({bytes, 1U << 20});
    return 0;
}
