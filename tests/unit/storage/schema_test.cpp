// SPDX-License-Identifier: MIT
#include "storage/records/schema.h"

#include <filesystem>
#include <fstream>

#include "support.h"

namespace volchain::storage::schema_test {
namespace {

std::int64_t version_of(Database& database) {
    auto query = database.prepare("PRAGMA user_version");
    return query.row() ? query.number(0) : -1;
}

std::vector<std::string> tables_of(Database& database) {
    std::vector<std::string> names;
    auto query = database.prepare("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name");
    while (query.row()) names.push_back(query.text(0));
    return names;
}

class SchemaTest : public testing::Test {
  protected:
    TemporaryDirectory directory_;
    Database database_{directory_ / "volchain.db"};
};

TEST_F(SchemaTest, IsMadeInAnEmptyDatabase) {
    EXPECT_EQ(version_of(database_), 0);
    migrate(database_);
    EXPECT_GE(version_of(database_), 1);
    EXPECT_THAT(
        tables_of(database_),
        ElementsAre("backup", "disk", "export", "frozen", "job", "pool", "schedule", "snapshot",
                    "snapshot_disk", "snapshot_excluded", "stale_manifest", "unwanted_file", "vm", "volume"));
}

TEST_F(SchemaTest, IsLeftAloneWhereItIsTheLatest) {
    migrate(database_);
    const std::int64_t version = version_of(database_);
    database_.execute("INSERT INTO pool VALUES ('a', 'b', 'c')");
    migrate(database_);
    EXPECT_EQ(version_of(database_), version);
    auto query = database_.prepare("SELECT count(*) FROM pool");
    ASSERT_TRUE(query.row());
    EXPECT_EQ(query.number(0), 1);
}

TEST_F(SchemaTest, OfANewerProgramIsRefusedAndNotTouched) {
    database_.execute("CREATE TABLE from_the_future (a TEXT) STRICT; PRAGMA user_version=1000");
    expect_error(ErrorCode::unsupported, {"schema 1000", "newer"}, [&] { migrate(database_); });
    EXPECT_EQ(version_of(database_), 1000);
    EXPECT_THAT(tables_of(database_), ElementsAre("from_the_future"));
}

TEST_F(SchemaTest, IsMadeCompletelyOrNotAtAll) {
    // The last table of the first migration is there already: making it fails after all the others, and the next
    // migration is not begun.
    database_.execute("CREATE TABLE stale_manifest (a TEXT) STRICT");
    expect_error(ErrorCode::internal, {"already exists"}, [&] { migrate(database_); });
    EXPECT_EQ(version_of(database_), 0);
    EXPECT_THAT(tables_of(database_), ElementsAre("stale_manifest"));
    database_.execute("DROP TABLE stale_manifest");
    migrate(database_);
    EXPECT_EQ(tables_of(database_).size(), 14u);
}

}  // namespace
}  // namespace volchain::storage::schema_test
