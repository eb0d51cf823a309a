// SPDX-License-Identifier: MIT
#include "client/vm_tree.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <tuple>

#include "base/error.h"
#include "support.h"

namespace volchain::client::vm_tree_test {
namespace {

using Paths = std::vector<bus::ObjectPath>;
using PathPair = std::tuple<bus::ObjectPath, bus::ObjectPath>;
using PathText = std::tuple<bus::ObjectPath, std::string>;

constexpr std::uint64_t first_second = 1'774'749'600'000'000;  // 2026-03-29 02:00:00 UTC

/// A VM "web" whose parts are put in one by one.
class VmTreeTest : public testing::Test {
  protected:
    void SetUp() override {
        ::setenv("TZ", "UTC", 1);
        ::tzset();
    }

    void volume(int number, int backing, const std::string& file, bool active = false) {
        const auto below = backing == 0 ? bus::ObjectPath() : path_of("volume", backing);
        put(objects, "volume", number,
            {{"Path", "/pool/" + file},
             {"Backing", below},
             {"SizeBytes", std::uint64_t{64} << 20},
             {"AllocatedBytes", static_cast<std::uint64_t>(number) << 20},
             {"State", "ok"},
             {"Active", active}});
    }

    void disk(int number, const std::string& name, int active, const Paths& volumes) {
        put(objects, "disk", number,
            {{"Name", name},
             {"VM", path_of("vm", 1)},
             {"Active", path_of("volume", active)},
             {"Volumes", volumes}});
    }

    void snapshot(int number, const std::string& name, int parent, const std::vector<PathPair>& disks,
                  const std::vector<PathText>& excluded = {}) {
        const auto above = parent == 0 ? bus::ObjectPath() : path_of("snapshot", parent);
        put(objects, "snapshot", number,
            {{"Name", name},
             {"VM", path_of("vm", 1)},
             {"Parent", above},
             {"CreatedUsec", first_second + static_cast<std::uint64_t>(number) * 1'000'000},
             {"Consistency", "filesystem"},
             {"Status", excluded.empty() ? "ok" : "partial"},
             {"Disks", disks},
             {"Excluded", excluded},
             {"Current", false}});
        snapshots.push_back(path_of("snapshot", number));
    }

    void vm(int current, const std::string& agent_socket = "/agent") {
        const auto now = current == 0 ? bus::ObjectPath() : path_of("snapshot", current);
        put(objects, "vm", 1,
            {{"Name", "web"},
             {"State", "running"},
             {"AgentState", "connected"},
             {"AgentSocket", agent_socket},
             {"CurrentSnapshot", now},
             {"Snapshots", snapshots}});
    }

    /// Of a snapshot, by a disk that was on another volume before.
    void preview(int current, int of, int previewed_disk, int former) {
        vm(current);
        put(objects, "vm", 1,
            {{"Name", "web"},
             {"State", "running"},
             {"AgentState", "connected"},
             {"AgentSocket", "/agent"},
             {"CurrentSnapshot", path_of("snapshot", current)},
             {"PreviewOf", path_of("snapshot", of)},
             {"Snapshots", snapshots}});
        objects.change(path_of("disk", previewed_disk), {{"Former", path_of("volume", former)}});
    }

    [[nodiscard]] std::string text(bool utf8 = true) const {
        return VmTree(objects, path_of("vm", 1)).text({false, false, utf8});
    }

    static PathPair on(int disk, int volume) { return {path_of("disk", disk), path_of("volume", volume)}; }
    static Paths volumes(std::initializer_list<int> numbers) {
        Paths all;
        for (const int number : numbers) all.push_back(path_of("volume", number));
        return all;
    }

    Objects objects;
    Paths snapshots;
};

TEST_F(VmTreeTest, WithoutSnapshots) {
    volume(1, 0, "base.qcow2");
    volume(2, 1, "top.qcow2", true);
    disk(1, "root", 2, volumes({1, 2}));
    vm(0, "");
    EXPECT_EQ(text(),
              "web                              running\n"
              "└─ (now)\n"
              "      root  top.qcow2   64M  2M  ok       active\n"
              "            base.qcow2  64M  1M  ok\n");
}

TEST_F(VmTreeTest, AStraightHistoryStaysInItsColumn) {
    volume(1, 0, "r1");
    volume(2, 1, "r2");
    volume(3, 2, "r3", true);
    volume(4, 0, "d4");
    volume(5, 4, "d5", true);
    disk(1, "root", 3, volumes({1, 2, 3}));
    disk(2, "data", 5, volumes({4, 5}));
    snapshot(1, "one", 0, {on(1, 1), on(2, 4)});
    snapshot(2, "two", 1, {on(1, 2)}, {{path_of("disk", 2), "no space"}});
    vm(2);
    EXPECT_EQ(text(),
              "web                      running  agent connected\n"
              "└─ one                   ok       2026-03-29 02:00:01, filesystem\n"
              "   │  data  d4  64M  4M  ok\n"
              "   │  root  r1  64M  1M  ok\n"
              "   two                   partial  2026-03-29 02:00:02, filesystem, current\n"
              "   │  root  r2  64M  2M  ok\n"
              "   │  data                        excluded: no space\n"
              "   (now)\n"
              "      data  d5  64M  5M  ok       active\n"
              "      root  r3  64M  3M  ok       active\n");
}

TEST_F(VmTreeTest, Branches) {
    volume(1, 0, "r1");
    volume(2, 1, "r2");
    volume(3, 1, "r3");
    volume(4, 3, "r4", true);
    volume(5, 2, "leaf");
    disk(1, "root", 4, volumes({1, 2, 3, 4, 5}));
    snapshot(1, "base", 0, {on(1, 1)});
    snapshot(2, "left", 1, {on(1, 2)});
    snapshot(3, "right", 1, {on(1, 3)});
    vm(3);
    EXPECT_EQ(text(),
              "web                                running  agent connected\n"
              "├─ base                            ok       2026-03-29 02:00:01, filesystem\n"
              "│  │  root          r1    64M  1M  ok\n"
              "│  ├─ left                         ok       2026-03-29 02:00:02, filesystem\n"
              "│  │     root       r2    64M  2M  ok\n"
              "│  └─ right                        ok       2026-03-29 02:00:03, filesystem, current\n"
              "│     │  root       r3    64M  3M  ok\n"
              "│     (now)\n"
              "│        root       r4    64M  4M  ok       active\n"
              "└─ (other volumes)\n"
              "      root          leaf  64M  5M  ok\n");
}

TEST_F(VmTreeTest, APreviewAndWhatWasBefore) {
    volume(1, 0, "r1");
    volume(2, 1, "r2");
    volume(3, 2, "r3");
    volume(4, 1, "shown", true);
    volume(5, 0, "d5", true);
    disk(1, "root", 4, volumes({1, 2, 3, 4}));
    disk(2, "data", 5, volumes({5}));
    snapshot(1, "one", 0, {on(1, 1)});
    snapshot(2, "two", 1, {on(1, 2)});
    preview(2, 1, 1, 3);
    EXPECT_EQ(text(),
              "web                              running  agent connected\n"
              "└─ one                           ok       2026-03-29 02:00:01, filesystem\n"
              "   │  root       r1     64M  1M  ok\n"
              "   ├─ two                        ok       2026-03-29 02:00:02, filesystem, current\n"
              "   │  │  root    r2     64M  2M  ok\n"
              "   │  (before)\n"
              "   │     root    r3     64M  3M  ok\n"
              "   └─ (preview)\n"
              "         data    d5     64M  5M  ok       active\n"
              "         root    shown  64M  4M  ok       active\n");
    const OrderedJson one = VmTree(objects, path_of("vm", 1)).json()["tree"][0];
    EXPECT_EQ(one["children"][0]["children"][0]["type"], "former");
    EXPECT_EQ(one["children"][1]["type"], "now");
}

TEST_F(VmTreeTest, AsciiWhereThereIsNoUtf8) {
    volume(1, 0, "r1");
    volume(2, 1, "r2", true);
    volume(3, 1, "r3");
    disk(1, "root", 2, volumes({1, 2, 3}));
    snapshot(1, "base", 0, {on(1, 1)});
    vm(1);
    EXPECT_EQ(text(false),
              "web                              running  agent connected\n"
              "|- base                          ok       2026-03-29 02:00:01, filesystem, current\n"
              "|  |  root          r1  64M  1M  ok\n"
              "|  (now)\n"
              "|     root          r2  64M  2M  ok       active\n"
              "`- (other volumes)\n"
              "      root          r3  64M  3M  ok\n");
}

TEST_F(VmTreeTest, NothingIsHiddenByBrokenRecords) {
    volume(1, 2, "a");  // a circle of backing files
    volume(2, 1, "b", true);
    disk(1, "root", 2, volumes({1, 2}));
    snapshot(1, "orphan", 9, {on(1, 1)});     // its parent is gone
    snapshot(2, "ring", 3, {on(7, 1)});       // a circle of parents, of a disk that is gone
    snapshot(3, "ring-too", 2, {on(1, 99)});  // a volume that is gone
    vm(9);
    const std::string all = text();
    for (const char* part : {"orphan", "ring", "ring-too", "(now)"})
        EXPECT_NE(all.find(part), std::string::npos) << all;
    EXPECT_THROW(VmTree(objects, path_of("vm", 2)), Error);
}

TEST_F(VmTreeTest, Json) {
    volume(1, 0, "r1");
    volume(2, 1, "r2", true);
    disk(1, "root", 2, volumes({1, 2}));
    snapshot(1, "base", 0, {on(1, 1)}, {{bus::ObjectPath(), "no file"}});
    vm(1);
    const OrderedJson json = VmTree(objects, path_of("vm", 1)).json();
    EXPECT_EQ(json["name"], "web");
    EXPECT_EQ(json["current_snapshot"]["name"], "base");
    const OrderedJson& base = json["tree"][0];
    EXPECT_EQ(base["type"], "snapshot");
    EXPECT_EQ(base["id"], id_number(1));
    EXPECT_EQ(base["created_usec"], first_second + 1'000'000);
    EXPECT_EQ(base["volumes"][0].dump(),
              R"({"disk":{"kind":"disk","id":"00000000-0000-4000-8000-000000000001","name":"root"},)"
              R"("id":"00000000-0000-4000-8000-000000000001","path":"/pool/r1","size_bytes":67108864,)"
              R"("allocated_bytes":1048576,"state":"ok","active":false,"layer":false})");
    EXPECT_EQ(base["volumes"][1].dump(), R"({"disk":null,"excluded":"no file"})");
    EXPECT_EQ(base["children"][0]["type"], "now");
    EXPECT_EQ(base["children"][0]["volumes"][0]["active"], true);
    EXPECT_EQ(base["children"][0]["children"].size(), 0U);
}

}  // namespace
}  // namespace volchain::client::vm_tree_test
