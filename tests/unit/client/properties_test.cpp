// SPDX-License-Identifier: MIT
#include "client/properties.h"

#include <gtest/gtest.h>

#include <tuple>

#include "support.h"

namespace volchain::client::properties_test {
namespace {

using Strings = std::vector<std::string>;
using TextPair = std::tuple<std::string, std::string>;
using PathPair = std::tuple<bus::ObjectPath, bus::ObjectPath>;

std::string nobody(const bus::ObjectPath&) {
    return {};
}

template <typename T>
std::string json(const std::string& property, const T& value) {
    return cell_of(property, bus::Variant(value), nobody).json().dump();
}

template <typename T>
std::string text(const std::string& property, const T& value) {
    return cell_of(property, bus::Variant(value), nobody).brief();
}

TEST(Properties, TypeAndNameSayWhatTheyAre) {
    EXPECT_EQ(text("SizeBytes", std::uint64_t{65536}), "64K");
    EXPECT_EQ(json("SizeBytes", std::uint64_t{65536}), "65536");
    EXPECT_EQ(text("Depth", std::uint32_t{3}), "3");
    EXPECT_EQ(text("FinishedUsec", std::uint64_t{0}), "-");
    EXPECT_EQ(json("FinishedUsec", std::uint64_t{0}), "null");
    EXPECT_EQ(text("switch-usec", std::uint64_t{0}), "0us");
    EXPECT_EQ(json("switch-usec", std::uint64_t{1500}), "1500");
    EXPECT_EQ(text("Reflink", true), "yes");
    EXPECT_EQ(json("Name", std::string("a\"b")), R"("a\"b")");
    EXPECT_EQ(json("Features", Strings{"a", "b"}), R"(["a","b"])");
}

TEST(Properties, Objects) {
    EXPECT_EQ(json("VM", bus::ObjectPath()), "null");
    EXPECT_EQ(text("VM", path_of("vm", 1)), "00000000");
    EXPECT_EQ(json("VM", path_of("vm", 1)),
              R"({"kind":"vm","id":"00000000-0000-4000-8000-000000000001","name":null})");
    EXPECT_EQ(json("Other", bus::ObjectPath("/elsewhere")), R"("/elsewhere")");
    const NameOf names = [](const bus::ObjectPath& path) { return path == path_of("disk", 1) ? "z" : "a"; };
    const bus::Variant disks(std::vector<bus::ObjectPath>{path_of("disk", 1), path_of("disk", 2)});
    const OrderedJson sorted = cell_of("Disks", disks, names).json();
    EXPECT_EQ(sorted[0]["name"], "a");
    EXPECT_EQ(sorted[1]["name"], "z");
}

TEST(Properties, StructsHaveNamedFields) {
    EXPECT_EQ(json("Unmanaged", std::vector<TextPair>{{"cd0", "read-only"}}),
              R"([{"device":"cd0","why":"read-only"}])");
    EXPECT_EQ(json("Error", TextPair{"org.volchain1.Error.Busy", "it is"}),
              R"({"name":"org.volchain1.Error.Busy","message":"it is"})");
    EXPECT_EQ(json("Error", TextPair{}), "null");
    const std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>> bitmaps{{"b", 65536, 2}};
    EXPECT_EQ(json("Bitmaps", bitmaps), R"([{"name":"b","granularity_bytes":65536,"flags":2}])");
    const std::vector<PathPair> pairs{{path_of("disk", 1), path_of("volume", 2)}};
    EXPECT_EQ(cell_of("Disks", bus::Variant(pairs), nobody).json()[0]["volume"]["id"], id_number(2));
    EXPECT_EQ(json("Unknown", TextPair{"a", "b"}), R"({"field0":"a","field1":"b"})");
}

TEST(Properties, DictionariesAreRecords) {
    bus::Dict result;
    result.emplace("disk", path_of("disk", 7));
    result.emplace("frozen-usec", std::uint64_t{3100});
    EXPECT_EQ(
        json("Result", result),
        R"({"disk":{"kind":"disk","id":"00000000-0000-4000-8000-000000000007","name":null},"frozen_usec":3100})");
}

TEST(Properties, ListsHaveTheOthersInJsonOnly) {
    Objects objects;
    put(objects, "pool", 1, {{"Name", "b"}, {"FreeBytes", std::uint64_t{1024}}, {"State", "ok"}});
    put(objects, "pool", 2, {{"Name", "a"}, {"FreeBytes", std::uint64_t{2048}}, {"State", "missing"}});
    const auto twice = [](const Object& pool) { return Cell::size(2 * pool.number("FreeBytes")); };
    const Table table =
        list_of("pool", objects, objects.of_kind("pool"), {"Name", "FreeBytes", {"Double", twice}});
    EXPECT_EQ(table.text({}),
              "NAME  FREE  DOUBLE\na       2K      4K\nb       1K      2K\n\n2 pools listed.\n");
    EXPECT_EQ(
        table.json()[1].dump(),
        R"({"name":"b","free_bytes":1024,"double":2048,"id":"00000000-0000-4000-8000-000000000001","state":"ok"})");
}

TEST(Properties, SheetsBeginWithWhatPeopleLookFor) {
    const bus::Dict properties{{"Active", true}, {"State", "ok"}, {"Name", "n"}, {"Id", id_number(1)}};
    EXPECT_EQ(sheet_of(properties, nobody).json().dump(),
              R"({"name":"n","id":"00000000-0000-4000-8000-000000000001","state":"ok","active":true})");
}

TEST(ObjectNames, ComeFromPaths) {
    EXPECT_EQ(kind_of(path_of("vm", 1)), "vm");
    EXPECT_EQ(id_of(path_of("vm", 1)), id_number(1));
    EXPECT_EQ(kind_of(bus::ObjectPath("/org/volchain1")), "");
    EXPECT_EQ(kind_of(bus::ObjectPath("/org/volchain1/vm")), "");
    EXPECT_EQ(id_of(bus::ObjectPath("/org/volchain1/vm/x")), "");
    EXPECT_EQ(interface_of("vm"), "org.volchain1.VM");
    EXPECT_EQ(interface_of("snapshot"), "org.volchain1.Snapshot");
}

TEST(ObjectNames, WhatIsMissingOrOfAnotherTypeIsEmpty) {
    Objects objects;
    put(objects, "disk", 1, {{"Name", std::uint64_t{5}}});
    const Object* disk = objects.find(path_of("disk", 1));
    ASSERT_NE(disk, nullptr);
    EXPECT_EQ(disk->name(), "");
    EXPECT_EQ(disk->number("SizeBytes"), 0U);
    EXPECT_TRUE(disk->reference("VM").none());
    EXPECT_EQ(objects.name(path_of("disk", 2)), "");
    EXPECT_EQ(objects.find(path_of("disk", 2)), nullptr);
}

}  // namespace
}  // namespace volchain::client::properties_test
