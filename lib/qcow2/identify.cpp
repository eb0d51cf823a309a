// SPDX-License-Identifier: MIT
#include "qcow2/identify.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "qcow2/big_endian.h"
#include "qcow2/limits.h"

namespace volchain::qcow2 {
namespace {

using namespace std::string_view_literals;

constexpr std::uint64_t head_bytes = 4096;
constexpr std::uint64_t tail_bytes = 512;

struct Mark {
    Format format;
    std::size_t offset;
    std::string_view bytes;
};

/// Marks at a fixed place at the start: what QEMU's drivers look for when they probe, and the same of
/// their variants.
constexpr std::array<Mark, 13> head_marks{{
    {Format::vmdk, 0, "KDMV"sv},                              // sparse extent of hosted products
    {Format::vmdk, 0, "COWD"sv},                              // sparse extent of ESX
    {Format::vmdk, 0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"sv},  // seSparse extent
    {Format::vmdk, 0, "# Disk DescriptorFile"sv},
    {Format::vdi, 0x40, "\x7f\x10\xda\xbe"sv},
    {Format::vpc, 0, "conectix"sv},  // copy of the footer, in dynamic and differencing disks
    {Format::vhdx, 0, "vhdxfile"sv},
    {Format::qed, 0, "QED\0"sv},
    {Format::luks, 0, "LUKS\xba\xbe"sv},
    {Format::parallels, 0, "WithoutFreeSpace"sv},
    {Format::parallels, 0, "WithouFreSpacExt"sv},
    {Format::bochs, 0, "Bochs Virtual HD Image"sv},
    {Format::cloop, 0, "#!/bin/sh\n#V2.0 Format\n"sv},
}};

/// Marks counted from the end of the file.
constexpr std::array<Mark, 3> tail_marks{{
    {Format::vpc, 512, "conectix"sv},  // footer
    {Format::vpc, 511, "conectix"sv},  // footer as the first versions of Virtual PC wrote it
    {Format::dmg, 512, "koly"sv},      // trailer
}};

std::string read_text(const ImageSource& source, std::uint64_t offset, std::uint64_t bytes) {
    std::string text(static_cast<std::size_t>(bytes), '\0');
    source.read(std::as_writable_bytes(std::span(text)), offset);
    return text;
}

std::optional<Format> qcow_of(std::string_view head) {
    const auto bytes = std::as_bytes(std::span(head));
    if (bytes.size() < 8 || load_be<std::uint32_t>(bytes) != magic) return std::nullopt;
    // qcow and qcow2 share the magic number; qcow is version 1.
    return load_be<std::uint32_t>(bytes.subspan(4)) < 2 ? Format::qcow : Format::qcow2;
}

/// A VMDK descriptor is text: comments and blank lines, then its version (as QEMU's driver probes it).
bool vmdk_descriptor(std::string_view text) {
    while (true) {
        const std::size_t end = text.find('\n');
        if (end == std::string_view::npos) return false;
        std::string_view line = text.substr(0, end);
        if (line.ends_with('\r')) line.remove_suffix(1);
        text.remove_prefix(end + 1);
        const bool blank = line.find_first_not_of(' ') == std::string_view::npos;
        if (!blank && !line.starts_with('#'))
            return line == "version=1" || line == "version=2" || line == "version=3";
    }
}

}  // namespace

std::optional<Format> identify(const ImageSource& source) {
    const std::uint64_t size = source.size();
    const std::string head = read_text(source, 0, std::min(size, head_bytes));
    if (const auto format = qcow_of(head)) return format;
    for (const Mark& mark : head_marks)
        if (head.size() >= mark.offset && std::string_view(head).substr(mark.offset).starts_with(mark.bytes))
            return mark.format;
    if (vmdk_descriptor(head)) return Format::vmdk;

    const std::string tail = read_text(source, size - std::min(size, tail_bytes), std::min(size, tail_bytes));
    for (const Mark& mark : tail_marks)
        if (tail.size() >= mark.offset &&
            std::string_view(tail).substr(tail.size() - mark.offset).starts_with(mark.bytes))
            return mark.format;
    return std::nullopt;
}

std::string_view name(Format format) noexcept {
    switch (format) {
        case Format::qcow2:
            return "qcow2";
        case Format::qcow:
            return "qcow";
        case Format::vmdk:
            return "vmdk";
        case Format::vdi:
            return "vdi";
        case Format::vpc:
            return "vpc";
        case Format::vhdx:
            return "vhdx";
        case Format::qed:
            return "qed";
        case Format::luks:
            return "luks";
        case Format::parallels:
            return "parallels";
        case Format::bochs:
            return "bochs";
        case Format::cloop:
            return "cloop";
        case Format::dmg:
            return "dmg";
    }
    return "unknown";
}

}  // namespace volchain::qcow2
