// SPDX-License-Identifier: MIT
#include "storage/checks/check_disk.h"

#include "storage/checks/bitmap_findings.h"
#include "storage/checks/graph_findings.h"
#include "storage/checks/image_check.h"
#include "storage/checks/mark_findings.h"
#include "storage/checks/record_findings.h"
#include "storage/checks/stray_files.h"
#include "support.h"

namespace volchain::storage::check_disk_test {
namespace {

using testing::AllOf;
using testing::Field;

/// A VM with a disk of three volumes in one pool, "a" <- "b" <- "c", which is active. Names stand for ids.
class CheckDiskTest : public testing::Test {
  protected:
    CheckDiskTest() : view_(Uuid::make()) {
        pool_ = {Uuid::make(), "pool", "/pool"};
        vm_.id = Uuid::make();
        vm_.name = "web";
        disk_.id = view_.disk;
        disk_.name = "root";
        disk_.vm = vm_.id;
        Changes changes;
        changes.put(pool_).put(vm_);
        std::string below;
        for (const std::string name : {"a", "b", "c"}) {
            add_volume(changes, name, below);
            below = name;
        }
        disk_.active = id("c");
        changes.put(disk_);
        catalog_.commit(std::move(changes));
        view_.pools[pool_.id] = PoolState::ok;
    }

    void add_volume(Changes& changes, const std::string& name, const std::string& below,
                    VolumeMark mark = VolumeMark::none) {
        VolumeRecord volume = new_volume(disk_.id, pool_.id, name);
        volume.mark = mark;
        volumes_[name] = volume.id;
        catalog_->set_facts(volume.id, facts_over(below.empty() ? "" : "/pool/" + below));
        changes.put(std::move(volume));
    }
    void branch(const std::string& name, const std::string& below, VolumeMark mark = VolumeMark::none) {
        Changes changes;
        add_volume(changes, name, below, mark);
        catalog_.commit(std::move(changes));
    }
    void mark(const std::string& name, VolumeMark mark) {
        VolumeRecord volume = catalog_->volume(id(name));
        volume.mark = mark;
        Changes changes;
        changes.put(std::move(volume));
        catalog_.commit(std::move(changes));
    }
    Uuid snapshot(const std::string& name, const std::string& volume,
                  SnapshotStatus status = SnapshotStatus::ok) {
        SnapshotRecord record;
        record.id = Uuid::make();
        record.vm = vm_.id;
        record.name = name;
        record.status = status;
        record.disks = {{disk_.id, id(volume)}};
        Changes changes;
        changes.put(record);
        catalog_.commit(std::move(changes));
        return record.id;
    }
    void facts(const std::string& name, const std::function<void(VolumeFacts&)>& change) {
        VolumeFacts facts = catalog_->facts(id(name));
        change(facts);
        catalog_->set_facts(id(name), std::move(facts));
    }
    void header(const std::string& name, const std::function<void(qcow2::Header&)>& change) {
        facts(name, [&](VolumeFacts& facts) {
            facts.header.emplace();
            change(*facts.header);
        });
    }
    void bitmap(const std::string& name, const std::string& bitmap, bool lost = false,
                bool recording = true) {
        facts(name, [&](VolumeFacts& facts) {
            facts.bitmaps.push_back({bitmap, 65536, lost, recording, {}});
        });
    }

    [[nodiscard]] Uuid id(const std::string& name) const { return volumes_.at(name); }
    /// Layers top first, as QEMU has them.
    void in_qemu(const std::vector<std::string>& names) {
        view_.qemu.running = true;
        LiveDisk live;
        for (const std::string& name : names)
            live.layers.push_back({"node-" + name, "qcow2", "/pool/" + name});
        view_.qemu.disks = {live};
    }

    Findings found() {
        Findings findings;
        find_in_records(*catalog_, view_, findings);
        find_marks(*catalog_, view_, findings);
        find_in_graph(*catalog_, view_, findings);
        find_bitmaps(*catalog_, view_, findings);
        return findings;
    }
    static auto is(FindingKind kind, Severity severity, Remedy remedy, const std::string& text) {
        return AllOf(Field(&Finding::kind, kind), Field(&Finding::severity, severity),
                     Field(&Finding::remedy, remedy), Field(&Finding::message, HasSubstr(text)));
    }
    static auto is(FindingKind kind, Severity severity, const std::string& text) {
        return is(kind, severity, Remedy::none, text);
    }

    TestCatalog catalog_;
    PoolRecord pool_;
    VmRecord vm_;
    DiskRecord disk_;
    DiskView view_;
    std::map<std::string, Uuid> volumes_;
};

TEST_F(CheckDiskTest, NothingIsWrong) {
    snapshot("s1", "a");
    snapshot("s2", "b");
    EXPECT_THAT(found(), IsEmpty());
    in_qemu({"c", "b", "a"});
    EXPECT_THAT(found(), IsEmpty());
}

TEST_F(CheckDiskTest, MissingFiles) {
    const auto lose = [&](const std::string& name) {
        facts(name, [](VolumeFacts& facts) {
            facts = VolumeFacts();
            facts.problem = "no such file";
        });
    };
    branch("d", "a");
    lose("d");
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::missing, Severity::warning, Remedy::forget_volume,
                                        "nothing needs it")));
    lose("b");
    EXPECT_THAT(found(),
                UnorderedElementsAre(is(FindingKind::missing, Severity::error, "stands on it"),
                                     is(FindingKind::missing, Severity::warning, "nothing needs it")))
        << "nor is 'a' called unused";
    for (const std::string name : {"a", "c"}) lose(name);
    for (const Finding& finding : found())
        EXPECT_EQ(finding.remedy, Remedy::none) << "the file system may not be mounted: " << finding.message;
    view_.pools[pool_.id] = PoolState::missing;
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::pool, Severity::error, "is not there")));
}

TEST_F(CheckDiskTest, WhatHeadersName) {
    facts("a", [](VolumeFacts& facts) { facts.backing = BackingReference{"../else", "/else", "qcow2"}; });
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::foreign, Severity::warning, "'../else'")));
    view_.looks[id("a")].backing_file = false;
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::foreign, Severity::error, "not there")));
    facts("a", [](VolumeFacts& facts) { facts.backing = BackingReference{"nbd://host", "", "raw"}; });
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::header, Severity::error, "no plain path")));
    facts("a", [](VolumeFacts& facts) { facts.backing.reset(); });
    facts("b", [](VolumeFacts& facts) { facts.backing->format.clear(); });
    EXPECT_THAT(found(),
                ElementsAre(is(FindingKind::header, Severity::warning, "does not say which format")));
    facts("b", [](VolumeFacts& facts) { facts.backing->format = "raw"; });
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::header, Severity::error, "recorded as qcow2")));
    facts("b", [](VolumeFacts& facts) {
        facts.backing->format = "qcow2";
        facts.size = mib / 2;
    });
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::size, Severity::warning, "524288")));
    facts("b", [](VolumeFacts& facts) { facts.size = 2 * mib; });
    facts("c", [](VolumeFacts& facts) { facts.size = 2 * mib; });
    EXPECT_THAT(found(), IsEmpty()) << "a disk that was made larger";
}

TEST_F(CheckDiskTest, AChainThatComesBackToItself) {
    facts("a", [](VolumeFacts& facts) { facts.backing = BackingReference{"b", "/pool/b", "qcow2"}; });
    EXPECT_THAT(found(), UnorderedElementsAre(is(FindingKind::header, Severity::error, "volume '/pool/a'"),
                                              is(FindingKind::header, Severity::error, "volume '/pool/b'")));
}

TEST_F(CheckDiskTest, WhatHeadersSayOfTheImage) {
    header("a", [](qcow2::Header& header) { header.features.corrupt = true; });
    header("b", [](qcow2::Header& header) { header.features.dirty = true; });
    header("c", [](qcow2::Header& header) {
        header.features.external_data_file = true;
        header.stale_bitmaps = true;
    });
    EXPECT_THAT(found(),
                UnorderedElementsAre(is(FindingKind::corruption, Severity::error, "marked it corrupt"),
                                     is(FindingKind::dirty, Severity::warning, "lazy refcounts"),
                                     is(FindingKind::header, Severity::error, "data file"),
                                     is(FindingKind::bitmap, Severity::info, "are void")));
    view_.looks[id("b")].written = true;
    EXPECT_EQ(found().size(), 3U) << "what a QEMU writes to is dirty";
    view_.looks[id("a")].carries = "qcow2";
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::format, Severity::warning, "marks of qcow2")));
}

TEST_F(CheckDiskTest, UnfinishedMerges) {
    mark("b", VolumeMark::illegal);
    EXPECT_THAT(found(),
                ElementsAre(is(FindingKind::illegal, Severity::warning, "'volchainctl volume merge'")));
    snapshot("s", "b", SnapshotStatus::failed);
    EXPECT_THAT(found(),
                UnorderedElementsAre(is(FindingKind::illegal, Severity::warning, "delete snapshot 's'"),
                                     is(FindingKind::snapshot, Severity::warning, "delete it again")));
    mark("c", VolumeMark::illegal);
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::illegal, Severity::error, "do not start the VM")));
    in_qemu({"c", "b", "a"});
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::illegal, Severity::warning, Remedy::clear_mark,
                                              "did not take place")));
    view_.qemu.jobs = {"vc-commit-" + id("c").str().substr(0, 18)};
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::illegal, Severity::error, "not settled")));
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::graph, Severity::warning, "still has the job")));
    in_qemu({"b", "a"});
    view_.qemu.jobs.clear();
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::graph, Severity::error, "delete snapshot 's'")));
    EXPECT_THAT(found(), testing::Not(testing::Contains(is(FindingKind::illegal, Severity::error, ""))));
}

TEST_F(CheckDiskTest, TheLoserOfASwitch) {
    branch("d", "b", VolumeMark::illegal);
    EXPECT_THAT(found(),
                ElementsAre(is(FindingKind::illegal, Severity::warning, "'volchainctl volume delete'")));
}

TEST_F(CheckDiskTest, LeftoversAndBranches) {
    mark("a", VolumeMark::leftover);
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::leftover, Severity::info, "can be merged")));
    branch("d", "a");
    EXPECT_THAT(found(),
                UnorderedElementsAre(is(FindingKind::leftover, Severity::info, "2 volumes stand on it"),
                                     is(FindingKind::unused, Severity::info, "'/pool/d'")));
    mark("d", VolumeMark::leftover);
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::leftover, Severity::warning, Remedy::drop_volume,
                                              "takes room")));
    view_.looks[id("d")].used = true;
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::leftover, Severity::warning, "takes room")));
    snapshot("s", "d");
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::leftover, Severity::info, Remedy::clear_mark,
                                              "holds the state of snapshot 's'")));
}

TEST_F(CheckDiskTest, Snapshots) {
    const Uuid deleting = snapshot("s", "a", SnapshotStatus::deleting);
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::snapshot, Severity::warning, Remedy::fail_snapshot,
                                        "no job does")));
    EXPECT_EQ(found().front().what, deleting.str());
    view_.planned.insert(deleting.str());
    EXPECT_THAT(found(), IsEmpty());
    snapshot("t", "c");
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::snapshot, Severity::error, "active volume")));
    SnapshotRecord record = catalog_->snapshot(deleting);
    record.disks = {{disk_.id, Uuid::make()}};
    Changes changes;
    changes.put(std::move(record));
    catalog_.commit(std::move(changes));
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::snapshot, Severity::error, "lost")));
}

TEST_F(CheckDiskTest, AFormerVolume) {
    branch("d", "a");
    disk_.former = id("d");
    Changes changes;
    changes.put(disk_);
    catalog_.commit(std::move(changes));
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::record, Severity::warning, Remedy::forget_former,
                                        "before a preview")));
    vm_.preview.emplace();
    vm_.preview->snapshot = snapshot("s", "a");
    Changes previewed;
    previewed.put(vm_);
    catalog_.commit(std::move(previewed));
    EXPECT_THAT(found(), IsEmpty());
}

TEST_F(CheckDiskTest, QemuHasItInAnotherWay) {
    in_qemu({"b", "a"});
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::graph, Severity::error, "runs on volume '/pool/b'")));
    view_.qemu.disks.clear();
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::graph, Severity::warning, "is running without")));
    in_qemu({"c", "a"});
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::graph, Severity::error, "stands on '/pool/a'")));
    in_qemu({"c", "b"});
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::graph, Severity::error, "stands on nothing")));
    in_qemu({"c", "b", "a", "z"});
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::graph, Severity::error, "its header names nothing")));
    in_qemu({"c", "b", "a"});
    view_.qemu.disks[0].layers[2].driver = "raw";
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::format, Severity::error, "open as raw")));
    view_.qemu = DiskInQemu();
    view_.qemu.unknown = "it hangs";
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::unchecked, Severity::warning, "it hangs")));
}

TEST_F(CheckDiskTest, BitmapsThatWereNotSaved) {
    bitmap("c", "one", true);
    bitmap("b", "one");
    EXPECT_THAT(found(),
                ElementsAre(is(FindingKind::bitmap, Severity::warning, Remedy::remove_bitmap, "'one'")));
    EXPECT_EQ(found().front().what, "one");
    view_.looks[id("c")].used = true;
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::bitmap, Severity::warning, "no process has")));
    view_.looks[id("c")].written = true;
    EXPECT_THAT(found(), IsEmpty()) << "whoever has it open knows";
}

TEST_F(CheckDiskTest, BitmapsThatOneAboveGoesOnWith) {
    bitmap("a", "one", true);
    branch("d", "b");
    bitmap("d", "one");
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::bitmap, Severity::warning, "'/pool/d'")));
    facts("d", [](VolumeFacts& facts) { facts.bitmaps.clear(); });
    EXPECT_THAT(found(),
                testing::Contains(is(FindingKind::bitmap, Severity::warning, Remedy::remove_bitmap, "")));
    view_.looks[id("d")].written = true;
    EXPECT_THAT(found(), testing::Contains(is(FindingKind::bitmap, Severity::warning, "look whole")))
        << "nobody knows what is in it";
}

TEST_F(CheckDiskTest, RecordingsWithAHole) {
    bitmap("a", "one");
    bitmap("c", "one");
    EXPECT_THAT(found(), ElementsAre(is(FindingKind::bitmap, Severity::info, "'/pool/b'")));
    bitmap("b", "one");
    EXPECT_THAT(found(), IsEmpty());
    bitmap("a", "two");
    EXPECT_THAT(found(), IsEmpty()) << "one that has ended";
}

TEST_F(CheckDiskTest, ReportsOfQemuImg) {
    header("a", [](qcow2::Header&) {});
    VolumeLook look;
    const auto read = [&](const std::string& report) {
        return read_image_report(*catalog_, id("a"), look, Json::parse(report));
    };
    const std::string leaks = R"({"check-errors": 0, "leaks": 2})";
    EXPECT_THAT(read(R"({"check-errors": 0, "total-clusters": 16})"), IsEmpty());
    EXPECT_THAT(read(leaks),
                ElementsAre(is(FindingKind::leak, Severity::warning, Remedy::free_leaks, "2 clusters")));
    look.used = true;
    EXPECT_THAT(read(leaks), ElementsAre(is(FindingKind::leak, Severity::warning, "no process has")));
    look.used = false;
    EXPECT_THAT(read(R"({"leaks": 2, "corruptions": 7})"),
                ElementsAre(is(FindingKind::corruption, Severity::error, "in 7 places"),
                            is(FindingKind::leak, Severity::warning, "image is damaged")));
    header("a", [](qcow2::Header& header) { header.features.corrupt = true; });
    EXPECT_THAT(read(leaks), ElementsAre(is(FindingKind::leak, Severity::warning, "image is damaged")));
    expect_error(ErrorCode::qemu_failed, {"report"}, [&] { (void)read(R"({"leaks": "many"})"); });
}

TEST_F(CheckDiskTest, WhatIsCheckedInside) {
    EXPECT_EQ(checkable_bytes(*catalog_, view_, id("a")), 0U) << "raw";
    header("a", [](qcow2::Header&) {});
    facts("a", [](VolumeFacts& facts) { facts.allocated = 77; });
    EXPECT_EQ(checkable_bytes(*catalog_, view_, id("a")), 77U);
    facts("a", [](VolumeFacts& facts) { facts.header->features.dirty = true; });
    EXPECT_EQ(checkable_bytes(*catalog_, view_, id("a")), 0U);
    facts("a", [](VolumeFacts& facts) { facts.state = VolumeState::missing; });
    EXPECT_EQ(checkable_bytes(*catalog_, view_, id("a")), 0U);
}

TEST(OwnNames, AreThoseThatWeGive) {
    const std::string id = "0b5f8bd2-7d52-4a6d-9c3b-3f3a1e9a1234";
    const auto name = own_name("deeper/web-root-" + id + ".qcow2");
    ASSERT_TRUE(name.has_value());
    EXPECT_EQ(name->disk, "web-root");
    EXPECT_EQ(name->volume.str(), id);
    EXPECT_EQ(word(name->format), "qcow2");
    EXPECT_EQ(word(own_name("x-" + id + ".raw")->format), "raw");
    const std::vector<std::string> others{id + ".qcow2",
                                          "-" + id + ".qcow2",
                                          "root_" + id + ".qcow2",
                                          "root-" + id,
                                          "root-" + id + ".img",
                                          "root-" + id + ".qcow2.bak",
                                          "ro ot-" + id + ".qcow2",
                                          "root-0B5F8BD2-7d52-4a6d-9c3b-3f3a1e9a1234.qcow2",
                                          "root-" + id.substr(1) + ".qcow2",
                                          "root.qcow2",
                                          ""};
    for (const std::string& other : others) EXPECT_FALSE(own_name(other).has_value()) << other;
}

TEST_F(CheckDiskTest, AFindingInAResult) {
    Finding finding(FindingKind::leak, Severity::warning, "bad \xff bytes");
    finding.of(*catalog_, id("a")).mended_by(Remedy::free_leaks);
    const Json record = finding.json();
    EXPECT_EQ(record.at("kind"), "leak");
    EXPECT_EQ(record.at("severity"), "warning");
    EXPECT_EQ(record.at("repairable"), true);
    EXPECT_EQ(record.at("repaired"), false);
    EXPECT_EQ(record.at("path"), "/pool/a");
    EXPECT_EQ(record.at("volume").at("id"), id("a").str());
    EXPECT_NO_THROW((void)record.dump());
    EXPECT_EQ(Finding(FindingKind::pool, Severity::info, "x").json().size(), 5U) << "about nothing";
}

TEST_F(CheckDiskTest, UnwantedFilesAreRememberedUntilSomebodyWantsThem) {
    Changes changes;
    changes.put(UnwantedFile{"/pool", "x", 7, from_usec(1234)}).put(UnwantedFile{"/pool", "y", 8, now()});
    changes.put(UnwantedFile{"/gone", "x", 9, now()});
    catalog_.commit(std::move(changes));
    catalog_.reopen();
    ASSERT_EQ(catalog_->unwanted_files().size(), 3U);
    EXPECT_EQ(catalog_->unwanted_files().at("/pool/x").inode, 7U);
    EXPECT_EQ(catalog_->unwanted_files().at("/pool/x").since, from_usec(1234));
    Changes more;
    more.put(new_volume(disk_.id, pool_.id, "x")).put(UnwantedFile{"/gone", "x", 0, {}, false});
    catalog_.commit(std::move(more));
    for (int look = 0; look < 2; ++look) {
        EXPECT_EQ(catalog_->unwanted_files().size(), 1U);
        EXPECT_TRUE(catalog_->unwanted_files().contains("/pool/y"));
        catalog_.reopen();
    }
}

}  // namespace
}  // namespace volchain::storage::check_disk_test
