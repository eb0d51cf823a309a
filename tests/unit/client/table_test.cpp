// SPDX-License-Identifier: MIT
//
// Whole printed tables and sheets, as people and programs get them.
#include "client/table.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cstdlib>
#include <ctime>

#include "base/error.h"

namespace volchain::client::table_test {
namespace {

constexpr const char* uuid = "64c0ffee-0000-4000-8000-000000000001";

TextStyle plain() {
    return {true, false, true};
}

class TableTest : public testing::Test {
  protected:
    void SetUp() override {
        ::setenv("TZ", "UTC", 1);
        ::tzset();
    }
};

Table disks() {
    Table table("disk", {{"Name"}, {"VM"}, {"SizeBytes"}, {"StartedUsec"}, {"State"}, {"Id", false}});
    table.add({Cell::text("root"), Cell::object("vm", uuid, "web"), Cell::size(10'737'418'240),
               Cell::time(1'774'749'599'000'000), Cell::state("ok"), Cell::id(uuid)});
    table.add({Cell::text("a-long-name"), Cell(), Cell::size(512), Cell::time(0), Cell::state("broken"),
               Cell::id(uuid)});
    return table;
}

TEST_F(TableTest, Columns) {
    EXPECT_EQ(disks().text(plain()),
              "NAME         VM   SIZE  STARTED              STATE\n"
              "root         web   10G  2026-03-29 01:59:59  ok\n"
              "a-long-name  -    512B  -                    broken\n"
              "\n"
              "2 disks listed.\n");
}

TEST_F(TableTest, WithoutLegend) {
    TextStyle style = plain();
    style.legend = false;
    EXPECT_EQ(disks().text(style),
              "root         web   10G  2026-03-29 01:59:59  ok\n"
              "a-long-name  -    512B  -                    broken\n");
    EXPECT_EQ(Table("disk", {{"Name"}}).text(style), "");
}

TEST_F(TableTest, Json) {
    EXPECT_EQ(
        disks().json().dump(),
        R"([{"name":"root","vm":{"kind":"vm","id":"64c0ffee-0000-4000-8000-000000000001","name":"web"},)"
        R"("size_bytes":10737418240,"started_usec":1774749599000000,"state":"ok",)"
        R"("id":"64c0ffee-0000-4000-8000-000000000001"},)"
        R"({"name":"a-long-name","vm":null,"size_bytes":512,"started_usec":null,"state":"broken",)"
        R"("id":"64c0ffee-0000-4000-8000-000000000001"}])");
    EXPECT_EQ(Table("disk", {{"Name"}}).json().dump(), "[]");
}

TEST_F(TableTest, ColoursStandOutsideOfTheColumns) {
    TextStyle style = plain();
    style.colour = true;
    Table table("pool", {{"State"}, {"Name"}});
    table.add({Cell::state("ok"), Cell::text("a")});
    table.add({Cell::state("missing"), Cell::text("b")});
    EXPECT_EQ(table.text(style),
              "\x1b[1mSTATE\x1b[0m    \x1b[1mNAME\x1b[0m\n"
              "\x1b[32mok\x1b[0m       a\n"
              "\x1b[31mmissing\x1b[0m  b\n"
              "\n2 pools listed.\n");
}

TEST_F(TableTest, FooterCounts) {
    Table table("VM", {{"Name"}});
    EXPECT_EQ(table.text(plain()), "No VMs.\n");
    table.add({Cell::text("web")});
    EXPECT_EQ(table.text(plain()), "NAME\nweb\n\n1 VM listed.\n");
}

TEST_F(TableTest, CellsOfEveryType) {
    Table table("", {{"A"}, {"B"}, {"C"}, {"D"}, {"E"}, {"F"}, {"G"}});
    table.add({Cell::number(7), Cell::percent(42.4), Cell::duration(2300), Cell::boolean(true),
               Cell::id(uuid), Cell::list({Cell::text("x"), Cell::text("y")}),
               Cell::list({Cell::object("disk", uuid, "a"), Cell::object("disk", uuid, "b")})});
    EXPECT_EQ(table.text({false, false, true}), "7  42%  2.3ms  yes  64c0ffee  x, y  2\n");
    EXPECT_EQ(table.json()[0].dump(),
              R"({"a":7,"b":42.4,"c":2300,"d":true,"e":"64c0ffee-0000-4000-8000-000000000001","f":["x","y"],)"
              R"("g":[{"kind":"disk","id":"64c0ffee-0000-4000-8000-000000000001","name":"a"},)"
              R"({"kind":"disk","id":"64c0ffee-0000-4000-8000-000000000001","name":"b"}]})");
}

TEST_F(TableTest, WideAndControlCharacters) {
    if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) GTEST_SKIP() << "the locale C.UTF-8 is not there";
    Table table("", {{"A"}, {"B"}});
    table.add({Cell::text("日本"), Cell::text("1")});
    table.add({Cell::text("Größe"), Cell::text("a\n\x1b[31m\u009bb")});
    EXPECT_EQ(table.text({false, false, true}),
              "日本   1\n"
              "Größe  a\\x0a\\x1b[31m\\u009bb\n");
    (void)std::setlocale(LC_CTYPE, "C");
}

TEST_F(TableTest, ARowHasAsManyCellsAsThereAreColumns) {
    Table table("", {{"A"}, {"B"}});
    EXPECT_THROW(table.add({Cell::text("x")}), Error);
}

TEST_F(TableTest, Sheet) {
    Sheet sheet;
    sheet.add("Name", Cell::text("web"));
    sheet.add("VMState", Cell::state("running"));
    sheet.add("Description", Cell::text(""));
    sheet.add("Disks", Cell::list({Cell::object("disk", uuid, "a"), Cell::object("disk", uuid, "")}));
    sheet.add("Snapshots", Cell::list({}));
    sheet.add("switch-usec", Cell::duration(850));
    EXPECT_EQ(sheet.text(plain()),
              "       Name: web\n"
              "   VM state: running\n"
              "Description: -\n"
              "      Disks: a (64c0ffee-0000-4000-8000-000000000001)\n"
              "             64c0ffee-0000-4000-8000-000000000001\n"
              "  Snapshots: -\n"
              "     Switch: 850us\n");
    EXPECT_EQ(sheet.json().dump(),
              R"({"name":"web","vm_state":"running","description":"","disks":[)"
              R"({"kind":"disk","id":"64c0ffee-0000-4000-8000-000000000001","name":"a"},)"
              R"({"kind":"disk","id":"64c0ffee-0000-4000-8000-000000000001","name":null}],)"
              R"("snapshots":[],"switch_usec":850})");
}

TEST(Names, OfPropertiesAndResults) {
    EXPECT_EQ(key_of("CapacityBytes"), "capacity_bytes");
    EXPECT_EQ(key_of("VMState"), "vm_state");
    EXPECT_EQ(key_of("VM"), "vm");
    EXPECT_EQ(key_of("freeze-timeout-usec"), "freeze_timeout_usec");
    EXPECT_EQ(label_of("CapacityBytes"), "Capacity");
    EXPECT_EQ(label_of("QmpSocket"), "QMP socket");
    EXPECT_EQ(label_of("OwnerUid"), "Owner UID");
    EXPECT_EQ(label_of("vm"), "VM");
    EXPECT_EQ(header_of("CreatedUsec"), "CREATED");
    EXPECT_EQ(header_of("AgentState"), "AGENT STATE");
    EXPECT_EQ(header_of("Bytes"), "BYTES");
}

}  // namespace
}  // namespace volchain::client::table_test
