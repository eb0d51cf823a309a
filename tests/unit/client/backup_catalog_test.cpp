// SPDX-License-Identifier: MIT
#include "client/backup_catalog.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "client/backup_run.h"
#include "client/held_moment.h"

namespace volchain::client::backup_catalog_test {
namespace {

const std::string disk_id = "64c0ffee-0000-4000-8000-000000000001";
const std::string sum(64, 'a');

SavedDisk disk_at(const std::string& moment, const std::string& on = "") {
    SavedDisk disk;
    disk.id = disk_id;
    disk.name = "web-root";
    disk.target = "root";
    disk.size = 1 << 20;
    disk.file = "web-root." + moment + ".qcow2";
    disk.digests = "web-root." + moment + ".digests";
    disk.file_bytes = 393216;
    disk.data_bytes = 65536;
    disk.on = on;
    disk.checksum = sum;
    return disk;
}

SavedMoment moment_of(const std::string& id, const std::string& on = "") {
    SavedMoment moment;
    moment.id = id;
    moment.usec = 1'700'000'000'000'000;
    moment.vm_name = "web";
    moment.consistency = "crash";
    moment.checkpoint = "backup-64c0ffee." + id;
    moment.disks.push_back(disk_at(id, on));
    return moment;
}

BackupCatalog catalog_of(std::vector<SavedMoment> moments) {
    BackupCatalog catalog;
    catalog.id = "64c0ffee-0000-4000-8000-000000000002";
    catalog.vm_id = "64c0ffee-0000-4000-8000-000000000003";
    catalog.moments = std::move(moments);
    return catalog;
}

std::vector<std::string> ids(const BackupCatalog& catalog) {
    std::vector<std::string> all;
    for (const SavedMoment& moment : catalog.moments) all.push_back(moment.id);
    return all;
}

TEST(BackupCatalog, ReadAsItWasWritten) {
    BackupCatalog catalog = catalog_of({moment_of("m1"), moment_of("m2", "m1")});
    catalog.moments[0].config = SavedConfig{"config.m1", "application/xml", sum};
    catalog.moments[1].disks[0].why = "";
    const BackupCatalog read = BackupCatalog::parse(catalog.text());
    EXPECT_EQ(read.text(), catalog.text());
    EXPECT_EQ(read.moments[0].config->type, "application/xml");
    const auto chain = read.chain(read.moments[1], read.moments[1].disks[0]);
    ASSERT_EQ(chain.size(), 2U);
    EXPECT_EQ(chain[1]->file, "web-root.m1.qcow2");
    EXPECT_EQ(read.files().size(), 5U);
}

/// The document of a good catalogue with one member replaced.
void expect_refused(const std::string& member, const Json& value, const std::string& words,
                    ErrorCode code = ErrorCode::corrupt_image) {
    Json json = Json::parse(catalog_of({moment_of("m1"), moment_of("m2", "m1")}).text());
    json.at(Json::json_pointer(member)) = value;
    try {
        (void)BackupCatalog::parse(json.dump());
        ADD_FAILURE() << member << " " << value << " is taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
}

TEST(BackupCatalog, RefusesPathsOutOfTheDirectory) {
    for (const char* name : {"../root.qcow2", "/etc/shadow", "a/b", "..", ".", "", ".hidden", "a\nb", "\xff"})
        for (const char* member : {"/moments/1/disks/0/file", "/moments/1/disks/0/digests"}) {
            Json json = Json::parse(catalog_of({moment_of("m1"), moment_of("m2", "m1")}).text());
            json.at(Json::json_pointer(member)) = name;
            EXPECT_THROW((void)BackupCatalog::parse(json.dump(-1, ' ', false, Json::error_handler_t::ignore)),
                         Error)
                << name;
            if (std::string_view(name) == "\xff") break;  // is not even JSON, and becomes empty
        }
    expect_refused("/moments/0/disks/0/file", std::string(300, 'a'), "name of a file");
    expect_refused("/moments/1/disks/0/file", "web-root.m1.qcow2", "in one file");
    expect_refused("/moments/1/disks/0/digests", "web-root.m1.qcow2", "in one file");
}

TEST(BackupCatalog, RefusesWhatCannotBe) {
    expect_refused("/format", "other", "none of backups");
    expect_refused("/version", 2, "version 2", ErrorCode::unsupported);
    expect_refused("/algorithm", "md5", "another kind", ErrorCode::unsupported);
    expect_refused("/vm_id", "web", "UUID");
    expect_refused("/moments", 3, "array");
    expect_refused("/moments/0/id", "../m1", "is no moment");
    expect_refused("/moments/1/id", "m1", "twice");
    expect_refused("/moments/0/time_usec", -1, "not negative");
    expect_refused("/moments/0/disks", Json::array(), "has none");
    expect_refused("/moments/0/disks/0/size", UINT64_MAX, "more than there can be");
    expect_refused("/moments/0/disks/0/size", 1000, "multiple of 512");
    expect_refused("/moments/0/disks/0/size", 2 << 20, "another size");
    expect_refused("/moments/0/disks/0/size", 1e300, "number");
    expect_refused("/moments/0/disks/0/file_bytes", "many", "number");
    expect_refused("/moments/0/disks/0/checksum", "abc", "64 hexadecimal digits");
    expect_refused("/moments/0/disks/0/kind", "incremental", "does not fit");
    expect_refused("/moments/1/disks/0/on", "m2", "not before it");
    expect_refused("/moments/1/disks/0/on", "m3", "not before it");
    expect_refused("/moments/0/disks/0/name", std::string(10000, 'x'), "too long");
    EXPECT_THROW((void)BackupCatalog::parse(""), Error);
    EXPECT_THROW((void)BackupCatalog::parse("[]"), Error);
    EXPECT_THROW((void)BackupCatalog::parse(std::string(100000, '[')), Error);
}

TEST(BackupCatalog, RefusesAChainThatIsTooLong) {
    BackupCatalog catalog = catalog_of({moment_of("m0")});
    for (std::size_t i = 1; i < longest_chain; ++i)
        catalog.moments.push_back(moment_of(fmt::format("m{}", i), fmt::format("m{}", i - 1)));
    EXPECT_NO_THROW((void)BackupCatalog::parse(catalog.text()));
    catalog.moments.push_back(moment_of("last", fmt::format("m{}", longest_chain - 1)));
    EXPECT_THROW((void)BackupCatalog::parse(catalog.text()), Error);
}

TEST(WithNewest, KeepsWhatTheNewestStandOn) {
    const BackupCatalog catalog = catalog_of({moment_of("f1"), moment_of("i1", "f1"), moment_of("f2"),
                                              moment_of("i2", "f2"), moment_of("d2", "f2")});
    using Ids = std::vector<std::string>;
    EXPECT_EQ(ids(with_newest(catalog, 9)), (Ids{"f1", "i1", "f2", "i2", "d2"}));
    EXPECT_EQ(ids(with_newest(catalog, 4)), (Ids{"f1", "i1", "f2", "i2", "d2"}));
    EXPECT_EQ(ids(with_newest(catalog, 3)), (Ids{"f2", "i2", "d2"}));
    EXPECT_EQ(ids(with_newest(catalog, 2)), (Ids{"f2", "i2", "d2"}));
    EXPECT_EQ(ids(with_newest(catalog, 1)), (Ids{"f2", "d2"}));
    EXPECT_NO_THROW((void)BackupCatalog::parse(with_newest(catalog, 1).text()));
}

TEST(UsefulCheckpoints, OfTheLastAndOfTheLastFullOne) {
    using Names = std::vector<std::string>;
    EXPECT_EQ(useful_checkpoints(catalog_of({})), Names{});
    EXPECT_EQ(useful_checkpoints(catalog_of({moment_of("f1"), moment_of("i1", "f1"), moment_of("i2", "i1")})),
              (Names{"backup-64c0ffee.i2", "backup-64c0ffee.f1"}));
}

TEST(ExportName, OfAnNbdUri) {
    EXPECT_EQ(export_name_in("nbd+unix:///web-root?socket=%2Frun%2Fx.sock"), "web-root");
    EXPECT_EQ(export_name_in("nbd+unix:///a%20b%3F?socket=x"), "a b?");
    EXPECT_EQ(export_name_in("nbd+unix:///?socket=x"), "");
    EXPECT_EQ(export_name_in("nbd+unix:///100%?socket=x"), "100%");
    EXPECT_EQ(export_name_in("nonsense"), "");
}

}  // namespace
}  // namespace volchain::client::backup_catalog_test
