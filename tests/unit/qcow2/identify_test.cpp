// SPDX-License-Identifier: MIT
#include "qcow2/identify.h"

#include <gtest/gtest.h>

#include <array>
#include <utility>

#include "support.h"

namespace volchain::qcow2::identify_test {
namespace {

std::optional<Format> format_of(const Bytes& bytes) {
    return identify(MemorySource(bytes));
}

/// `size` zeroes with `text` at `offset`.
Bytes with(std::string_view text, std::size_t size, std::size_t offset = 0) {
    Bytes bytes(size);
    put_text(bytes, offset, text);
    return bytes;
}

TEST(Identify, ImagesThatQemuMakes) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    constexpr std::array<std::pair<const char*, Format>, 12> made{{
        {"qcow2", Format::qcow2},
        {"qcow2 compat=0.10", Format::qcow2},
        {"qcow", Format::qcow},
        {"vmdk subformat=monolithicSparse", Format::vmdk},
        {"vmdk subformat=streamOptimized", Format::vmdk},
        {"vmdk subformat=monolithicFlat", Format::vmdk},  // a descriptor that is text
        {"vdi", Format::vdi},
        {"vpc subformat=dynamic", Format::vpc},
        {"vpc subformat=fixed", Format::vpc},  // has but a footer
        {"vhdx", Format::vhdx},
        {"qed", Format::qed},
        {"parallels", Format::parallels},
    }};
    for (const auto& [words, format] : made) {
        const std::string_view both = words;
        const std::size_t space = both.find(' ');
        Words command{"qemu-img", "create", "-q", "-f", std::string(both.substr(0, space))};
        if (space != std::string_view::npos)
            command.insert(command.end(), {"-o", std::string(both.substr(space + 1))});
        command.insert(command.end(), {path, "8M"});
        run_well(command);
        const auto found = format_of(load(path));
        ASSERT_TRUE(found) << words;
        EXPECT_EQ(name(*found), name(format)) << words;
    }
}

TEST(Identify, NothingKnownIsNoFormat) {
    EXPECT_EQ(format_of({}), std::nullopt);
    EXPECT_EQ(format_of(Bytes(1)), std::nullopt);
    EXPECT_EQ(format_of(Bytes(1U << 20)), std::nullopt);
    EXPECT_EQ(format_of(with("QFI", 512)), std::nullopt);
    EXPECT_EQ(format_of(with("\x51\x46\x49\xfb\x00\x00\x00", 7)), std::nullopt);
    EXPECT_EQ(format_of(with("#!/bin/sh\necho version=1\n", 512)), std::nullopt);
    EXPECT_EQ(format_of(with("# version=1", 11)), std::nullopt);
    EXPECT_EQ(format_of(with("conectix", 4096, 1000)), std::nullopt);
    EXPECT_EQ(format_of(Bytes(100'000, std::byte{'#'})), std::nullopt);
    EXPECT_EQ(format_of(Bytes(100'000, std::byte{'\n'})), std::nullopt);
}

TEST(Identify, MarksOfOtherFormats) {
    using namespace std::string_view_literals;
    EXPECT_EQ(format_of(with("LUKS\xba\xbe\0\1"sv, 4096)), Format::luks);
    EXPECT_EQ(format_of(with("QED\0"sv, 4)), Format::qed);
    EXPECT_EQ(format_of(with("Bochs Virtual HD Image", 512)), Format::bochs);
    EXPECT_EQ(format_of(with("#!/bin/sh\n#V2.0 Format\nmodprobe cloop", 512)), Format::cloop);
    EXPECT_EQ(format_of(with("WithouFreSpacExt", 512)), Format::parallels);
    EXPECT_EQ(format_of(with("koly", 4096, 4096 - 512)), Format::dmg);
    EXPECT_EQ(format_of(with("conectix", 512)), Format::vpc);
    EXPECT_EQ(format_of(with("conectix", 8191, 8191 - 511)), Format::vpc);
    EXPECT_EQ(format_of(with("COWD\1\0\0\0"sv, 512)), Format::vmdk);
    EXPECT_EQ(format_of(with("\xbe\xba\xfe\xca\0\0\0\0"sv, 512)), Format::vmdk);
    EXPECT_EQ(format_of(with("# a comment\r\n\n   \r\nversion=3\r\n", 512)), Format::vmdk);
    EXPECT_EQ(format_of(with("\x51\x46\x49\xfb\xff\xff\xff\xff"sv, 8)), Format::qcow2);
}

TEST(Identify, WhatAGuestWroteIntoARawDiskIsFound) {
    const TemporaryDirectory directory;
    Bytes disk(1U << 20, std::byte{0x55});
    const Bytes planted = created("1M", "", {"-u", "-b", "/etc/shadow", "-F", "raw"});
    std::copy(planted.begin(), planted.begin() + 1024, disk.begin());
    EXPECT_EQ(format_of(disk), Format::qcow2);
}

}  // namespace
}  // namespace volchain::qcow2::identify_test
