// SPDX-License-Identifier: MIT
//
// From what QEMU says of its disks to records: with answers that a real one gave (recordings/record.py), and
// with live disks written down here where it is about one rule.
#include "storage/vms/adoption.h"

#include "base/file.h"
#include "base/text.h"
#include "unit/storage/recordings.h"

#include "support.h"

namespace volchain::storage::adoption_test {
namespace {

// --- recorded block graphs ------------------------------------------------------------------------------

Json recording(const std::string& name) {
    return parse_json(read_file(std::string(recordings_directory) + "/" + name + ".json", mib), name,
                      ErrorCode::internal);
}

/// Answers to commands out of a recording until the other side hangs up.
Task<> play(qmp::FakePeer& peer, const Json& recorded) {
    while (const auto line = co_await peer.hear()) {
        const Json command = Json::parse(*line);
        const auto name = command.at("execute").get<std::string>();
        const Json* answer = recorded.contains(name) ? &recorded.at(name) : nullptr;
        if (name == "qom-get" && answer != nullptr) {
            const Json& arguments = command.at("arguments");
            const std::string key =
                arguments.at("path").get<std::string>() + " " + arguments.at("property").get<std::string>();
            answer = answer->contains(key) ? &answer->at(key) : nullptr;
        }
        Json reply{{"id", command.at("id")}};
        if (answer != nullptr)
            reply["return"] = *answer;
        else
            reply["error"] = {{"class", "GenericError"}, {"desc", "not recorded: " + command.dump()}};
        co_await peer.say(reply.dump() + "\r\n");
    }
}

Task<> read_recorded(const Json& recorded, std::vector<LiveDisk>& disks) {
    qmp::FakeSession fake = co_await qmp::fake_session();
    async::TaskGroup player(co_await async::asio::this_coro::executor);
    player.spawn(play(*fake.peer, recorded), "the recording");
    std::exception_ptr failure;
    co_await async::keep_result(read_live_disks(fake.session, quick_settings()), disks, failure);
    co_await fake.session->close();
    co_await player.join(soon());
    if (failure) std::rethrow_exception(failure);
}

std::vector<LiveDisk> recorded_disks(const std::string& name) {
    const Json recorded = recording(name);
    std::vector<LiveDisk> disks;
    async::run(read_recorded(recorded, disks));
    return disks;
}

/// "root: c.qcow2 qcow2, b.raw raw": a disk as a line, its files without the directory.
std::string line_of(const LiveDisk& disk) {
    std::vector<std::string> layers;
    for (const LiveLayer& layer : disk.layers)
        layers.push_back(layer.path.substr(layer.path.rfind('/') + 1) + " " + layer.driver);
    return disk.target + ": " + joined(layers, ", ");
}

std::vector<std::string> lines_of(const std::vector<LiveDisk>& disks) {
    std::vector<std::string> lines;
    for (const LiveDisk& disk : disks) lines.push_back(line_of(disk));
    return lines;
}

class AdoptionTest : public testing::Test {
  protected:
    AdoptionTest() {
        vm_.id = Uuid::make();
        vm_.name = "web";
        Changes changes;
        changes.put(vm_);
        catalog_.commit(std::move(changes));
    }

    Adoption adopt_and_commit(const std::vector<LiveDisk>& disks) {
        Adoption adoption = adopt(*catalog_, vm_, disks);
        catalog_.commit(adoption.changes);
        return adoption;
    }
    [[nodiscard]] const DiskRecord& disk(std::string_view name) {
        for (const auto& [id, record] : catalog_->disks())
            if (record.name == name) return record;
        throw Error(ErrorCode::not_found, "no disk {}", name);
    }
    /// "web-root/root on /pool/c.qcow2 qcow2 [2 volumes]"
    [[nodiscard]] std::string line_of_record(const DiskRecord& record) {
        const VolumeRecord& active = catalog_->volume(record.active);
        return fmt::format("{}/{} on {} {} [{} volumes]", record.name, record.target, catalog_->path(active),
                           word(active.format), catalog_->volumes_of_disk(record.id).size());
    }
    [[nodiscard]] std::vector<std::string> record_lines() {
        std::vector<std::string> lines;
        for (const auto& [id, record] : catalog_->disks()) lines.push_back(line_of_record(record));
        return lines;
    }
    [[nodiscard]] std::vector<std::string> unmanaged(const std::vector<LiveDisk>& disks) {
        std::vector<std::string> lines;
        for (const auto& [device, why] : unmanaged_devices(*catalog_, vm_.id, disks))
            lines.push_back(device + ": " + why);
        return lines;
    }
    PoolRecord add_pool(const std::string& name, const std::string& path) {
        const PoolRecord pool{Uuid::make(), name, path};
        Changes changes;
        changes.put(pool);
        catalog_.commit(std::move(changes));
        return pool;
    }

    TestCatalog catalog_;
    VmRecord vm_;
};

TEST_F(AdoptionTest, ReadsDisksOfNamedNodes) {
    const std::vector<LiveDisk> disks = recorded_disks("blockdev");
    EXPECT_THAT(
        lines_of(disks),
        ElementsAre("root: root.2.qcow2 qcow2, root.1.qcow2 qcow2, base.raw file", "data: data.1.qcow2 qcow2",
                    "twina: twin-a.qcow2 qcow2, twins.qcow2 qcow2",
                    "twinb: twin-b.qcow2 qcow2, twins.qcow2 qcow2", "vmdk: foreign.vmdk vmdk", "nbd:  raw"))
        << "neither the CD nor the read-only disk";
    EXPECT_EQ(disks[0].device, "dev0");
    EXPECT_EQ(disks[0].active().node, "root");
    EXPECT_EQ(disks[0].active().path, "/pool/root.2.qcow2");
    EXPECT_TRUE(disks[0].options.cache_direct);
    EXPECT_FALSE(disks[1].options.cache_direct);
    EXPECT_EQ(disks[1].active().node, "data1") << "the layer, not the filter above it";
    EXPECT_FALSE(disks[0].shareable);
    EXPECT_TRUE(disks[1].shareable);
}

TEST_F(AdoptionTest, ReadsDisksWithNamesThatQemuMadeUp) {
    const std::vector<LiveDisk> disks = recorded_disks("drive");
    EXPECT_THAT(lines_of(disks), ElementsAre("serial0: root.2.qcow2 qcow2, root.1.qcow2 qcow2, base.raw raw",
                                             "dev1: plain.raw raw"));
    EXPECT_TRUE(disks[0].active().node.starts_with("#block"));
    EXPECT_TRUE(disks[0].options.cache_direct);
    EXPECT_EQ(word(disks[0].options.detect_zeroes), "unmap");
    EXPECT_FALSE(disks[0].options_known) << "the command line is not this QEMU's";
    EXPECT_TRUE(disks[0].options.discard) << "where it is not known, freed blocks are passed on";
}

TEST_F(AdoptionTest, MakesRecordsOfWholeChains) {
    const std::vector<LiveDisk> disks = recorded_disks("blockdev");
    const Adoption adoption = adopt_and_commit(disks);
    EXPECT_THAT(record_lines(),
                UnorderedElementsAre("web-root/root on /pool/root.2.qcow2 qcow2 [3 volumes]",
                                     "web-data/data on /pool/data.1.qcow2 qcow2 [1 volumes]",
                                     "web-twina/twina on /pool/twin-a.qcow2 qcow2 [2 volumes]",
                                     "web-twinb/twinb on /pool/twin-b.qcow2 qcow2 [1 volumes]"))
        << "a base that two disks have in common is the first one's";
    EXPECT_EQ(word(catalog_->find_volume("/pool/base.raw")->format), "raw");
    ASSERT_EQ(catalog_->pools().size(), 1u);
    EXPECT_EQ(catalog_->pools().begin()->second.name, "pool");
    EXPECT_EQ(catalog_->pools().begin()->second.path, "/pool");
    EXPECT_EQ(adoption.volumes.size(), 7u) << "to be looked at";
    EXPECT_EQ(adoption.pool_paths.size(), 1u);
    EXPECT_TRUE(disk("web-data").shareable);
    EXPECT_EQ(disk("web-root").vm, vm_.id);
    EXPECT_THAT(unmanaged(disks), ElementsAre("dev4: format 'vmdk' is not supported",
                                              "dev5: it is no file of this host (driver 'raw')"));
}

TEST_F(AdoptionTest, MakesTheSameRecordsOfTheLegacyForm) {
    const std::vector<LiveDisk> disks = recorded_disks("drive");
    (void)adopt_and_commit(disks);
    EXPECT_THAT(record_lines(),
                UnorderedElementsAre("web-serial0/serial0 on /pool/root.2.qcow2 qcow2 [3 volumes]",
                                     "web-dev1/dev1 on /pool/plain.raw raw [1 volumes]"));
    EXPECT_THAT(unmanaged(disks), IsEmpty());
}

TEST_F(AdoptionTest, ChangesNothingTheSecondTime) {
    for (const char* name : {"blockdev", "drive"}) {
        // The VM was shut down and started in another way.
        const std::vector<LiveDisk> disks = recorded_disks(name);
        (void)adopt_and_commit(disks);
        const auto lines = record_lines();
        const Adoption again = adopt(*catalog_, vm_, disks);
        EXPECT_TRUE(again.changes.empty()) << name;
        EXPECT_TRUE(again.volumes.empty()) << name;
    }
    EXPECT_THAT(record_lines(), testing::Contains("web-root/serial0 on /pool/root.2.qcow2 qcow2 [3 volumes]"))
        << "the disk is known by its file; its target is what it is now";
}

// --- rules ----------------------------------------------------------------------------------------------

/// A disk of those qcow2 files, active layer first.
LiveDisk live(const std::string& target, const std::vector<std::string>& paths) {
    LiveDisk disk;
    disk.device = "dev-" + target;
    disk.target = target;
    for (const std::string& path : paths)
        disk.layers.push_back({"node" + std::to_string(disk.layers.size()), "qcow2", path});
    return disk;
}

TEST_F(AdoptionTest, UsesThePoolThatIsThere) {
    add_pool("whole", "/srv");
    const PoolRecord inner = add_pool("inner", "/srv/inner");
    (void)adopt_and_commit(
        {live("a", {"/srv/inner/a.qcow2", "/srv/other/deep/base.qcow2", "/mnt/far.qcow2"})});
    EXPECT_EQ(catalog_->find_volume("/srv/inner/a.qcow2")->pool, inner.id);
    EXPECT_EQ(catalog_->find_volume("/srv/other/deep/base.qcow2")->file, "other/deep/base.qcow2");
    EXPECT_EQ(catalog_->pools().size(), 3u);
    EXPECT_EQ(catalog_->pool(catalog_->find_volume("/mnt/far.qcow2")->pool).path, "/mnt");
}

TEST_F(AdoptionTest, GivesNewPoolsFreeNames) {
    add_pool("images", "/elsewhere");
    (void)adopt_and_commit({live("a", {"/one/images/a"}), live("b", {"/two/images/b"}), live("c", {"/c"})});
    std::vector<std::string> names;
    for (const auto& [id, pool] : catalog_->pools()) names.push_back(pool.name + " " + pool.path);
    EXPECT_THAT(names, UnorderedElementsAre("images /elsewhere", "images-2 /one/images",
                                            "images-3 /two/images", "unnamed /"));
}

TEST_F(AdoptionTest, TakesAFloatingDiskAsItIs) {
    const PoolRecord pool = add_pool("p", "/srv");
    const VolumeRecord volume = new_volume(Uuid::make(), pool.id, "a.qcow2");
    DiskRecord floating = new_disk(volume, "mine");
    floating.node_options = qmp::NodeOptions{.aio = qmp::Aio::io_uring}.json();
    Changes changes;
    changes.put(volume).put(floating);
    catalog_.commit(std::move(changes));
    LiveDisk found = live("serial", {"/srv/a.qcow2"});
    found.options.cache_direct = true;
    (void)adopt_and_commit({found});
    const DiskRecord& disk = catalog_->disk(floating.id);
    EXPECT_EQ(disk.vm, vm_.id);
    EXPECT_EQ(disk.name, "mine");
    EXPECT_EQ(disk.target, "serial");
    const auto options = qmp::NodeOptions::parse(JsonReader(disk.node_options, "", ErrorCode::internal));
    EXPECT_TRUE(options.cache_direct) << "what QEMU tells now";
    EXPECT_EQ(word(options.aio), "io_uring") << "what it does not tell stays as it was";
    EXPECT_EQ(catalog_->disks().size(), 1u);
}

TEST_F(AdoptionTest, LeavesTheDiskOfAnotherVmAlone) {
    const PoolRecord pool = add_pool("p", "/srv");
    const VolumeRecord volume = new_volume(Uuid::make(), pool.id, "a.qcow2");
    DiskRecord theirs = new_disk(volume, "theirs");
    VmRecord other;
    other.id = theirs.vm = Uuid::make();
    other.name = "other";
    Changes changes;
    changes.put(other).put(volume).put(theirs);
    catalog_.commit(std::move(changes));
    const std::vector<LiveDisk> disks{live("s", {"/srv/a.qcow2"})};
    EXPECT_TRUE(adopt(*catalog_, vm_, disks).changes.empty());
    ASSERT_EQ(unmanaged(disks).size(), 1u);
    EXPECT_THAT(unmanaged(disks).front(),
                testing::AllOf(HasSubstr("disk 'theirs'"), HasSubstr("VM 'other'")));
}

TEST_F(AdoptionTest, DoesNotGuessWhereTheVmRunsOnAnotherVolume) {
    (void)adopt_and_commit({live("s", {"/srv/top", "/srv/base"})});
    const std::vector<LiveDisk> disks{live("s", {"/srv/base"})};
    EXPECT_TRUE(adopt(*catalog_, vm_, disks).changes.empty());
    ASSERT_EQ(unmanaged(disks).size(), 1u);
    EXPECT_THAT(unmanaged(disks).front(),
                testing::AllOf(HasSubstr("runs on '/srv/base'"), HasSubstr("'/srv/top'")));
}

TEST_F(AdoptionTest, TakesLayersOfSomebodyElseIntoTheDisk) {
    (void)adopt_and_commit({live("s", {"/srv/base"})});
    const Uuid before = disk("web-s").id;
    const Adoption adoption =
        adopt_and_commit({live("s", {"/srv/by-hand-2", "/srv/by-hand-1", "/srv/base"})});
    EXPECT_EQ(disk("web-s").id, before);
    EXPECT_THAT(record_lines(), ElementsAre("web-s/s on /srv/by-hand-2 qcow2 [3 volumes]"));
    EXPECT_EQ(adoption.volumes.size(), 2u);
}

TEST_F(AdoptionTest, MakesABranchOverTheBaseOfAnotherDiskADiskOfItsOwn) {
    (void)adopt_and_commit({live("a", {"/srv/a", "/srv/template"})});
    (void)adopt_and_commit({live("a", {"/srv/a", "/srv/template"}), live("b", {"/srv/b", "/srv/template"})});
    EXPECT_THAT(record_lines(), UnorderedElementsAre("web-a/a on /srv/a qcow2 [2 volumes]",
                                                     "web-b/b on /srv/b qcow2 [1 volumes]"));
}

TEST_F(AdoptionTest, EndsAChainAtALayerThatCannotBeAVolume) {
    LiveDisk disk = live("a", {"/srv/a", "/srv/b", ""});
    disk.layers.push_back({"n", "qcow2", "/srv/below"});
    (void)adopt_and_commit({disk});
    EXPECT_THAT(record_lines(), ElementsAre("web-a/a on /srv/a qcow2 [2 volumes]"));
    EXPECT_EQ(catalog_->find_volume("/srv/below"), nullptr);
}

TEST_F(AdoptionTest, MakesOneDiskOfTwoDevicesOnOneFile) {
    const std::vector<LiveDisk> disks{live("a", {"/srv/a"}), live("b", {"/srv/a"})};
    (void)adopt_and_commit(disks);
    EXPECT_EQ(catalog_->disks().size(), 1u);
    EXPECT_EQ(catalog_->volumes().size(), 1u);
}

TEST_F(AdoptionTest, RefusesNamesThatAreNoText) {
    const std::vector<LiveDisk> disks{live("a", {"/srv/\xff"})};
    EXPECT_TRUE(adopt(*catalog_, vm_, disks).changes.empty());
    EXPECT_THAT(unmanaged(disks), ElementsAre("dev-a: the name of its file is not UTF-8"));
}

TEST(FreeName, IsValidAndFree) {
    const auto valid = [](const std::string& wanted, const std::vector<std::string>& taken) {
        const std::string name = free_name(wanted, taken);
        EXPECT_NO_THROW(check_name("disk", name)) << quote(wanted);
        EXPECT_THAT(taken, testing::Not(testing::Contains(name)));
        return name;
    };
    EXPECT_EQ(valid("root", {}), "root");
    EXPECT_EQ(valid("root", {"root", "root-2"}), "root-3");
    EXPECT_EQ(valid("", {}), "unnamed");
    EXPECT_EQ(valid("web-/machine/peripheral-anon/device[2]", {}), "web--machine-peripheral-anon-device[2]");
    EXPECT_EQ(valid("/dev/sda", {}), "dev-sda");
    EXPECT_EQ(valid("a\nb\x7f", {}), "a-b-");
    EXPECT_EQ(valid("  a  ", {}), "a");
    (void)valid(std::string(1000, 'x'), {std::string(112, 'x')});
    (void)valid("\xff\xfe", {});
    std::string long_text;
    for (int count = 0; count < 100; ++count) long_text += "é";
    (void)valid(long_text, {free_name(long_text, {})});
    (void)valid(std::string(111, 'x') + " y", {});
    (void)valid("- -", {});
}

}  // namespace
}  // namespace volchain::storage::adoption_test
