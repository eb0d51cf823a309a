// SPDX-License-Identifier: MIT
#include "storage/records/database.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "support.h"

namespace volchain::storage::database_test {
namespace {

class DatabaseTest : public testing::Test {
  protected:
    [[nodiscard]] std::string path() const { return directory_ / "volchain.db"; }

    static std::string text_of(Database& database, const std::string& sql) {
        auto query = database.prepare(sql);
        return query.row() ? query.text(0) : "(no row)";
    }

    TemporaryDirectory directory_;
};

TEST_F(DatabaseTest, IsMadeForTheOwnerAlone) {
    const mode_t before = ::umask(0);
    { const Database database(path()); }
    ::umask(before);
    struct stat status {};
    ASSERT_EQ(::stat(path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(DatabaseTest, FlushesWhatItCommits) {
    Database database(path());
    EXPECT_EQ(text_of(database, "PRAGMA journal_mode"), "wal");
    EXPECT_EQ(text_of(database, "PRAGMA synchronous"), "2") << "FULL";
    EXPECT_EQ(text_of(database, "PRAGMA foreign_keys"), "1");
}

TEST_F(DatabaseTest, KeepsValuesAsTheyAre) {
    Database database(path());
    database.execute("CREATE TABLE t (a TEXT, b TEXT, c INTEGER, d TEXT) STRICT");
    const std::string bytes("\xff\0'; DROP TABLE t;\n", 19);
    auto insert = database.prepare("INSERT INTO t VALUES (?, ?, ?, ?)");
    insert.bind(bytes).bind(std::string_view()).bind(std::int64_t{-1}).bind_null().run();
    auto query = database.prepare("SELECT a, b, c, d FROM t");
    ASSERT_TRUE(query.row());
    EXPECT_EQ(query.text(0), bytes);
    EXPECT_FALSE(query.null(1)) << "an empty text is not NULL";
    EXPECT_EQ(query.text(1), "");
    EXPECT_EQ(query.number(2), -1);
    EXPECT_TRUE(query.null(3));
    EXPECT_FALSE(query.row());
}

TEST_F(DatabaseTest, SaysWhichStatementFailedAndWhy) {
    Database database(path());
    expect_error(ErrorCode::internal, {"state database", "SELECT nonsense", "no such column"},
                 [&] { (void)database.prepare("SELECT nonsense"); });
    expect_error(ErrorCode::internal, {"NONSENSE", "syntax error"}, [&] { database.execute("NONSENSE"); });
    auto query = database.prepare("SELECT 1");
    expect_error(ErrorCode::internal, {"bind"}, [&] { query.bind("more than there are parameters"); });
}

TEST_F(DatabaseTest, AContradictionIsNotAFailureOfTheMedium) {
    Database database(path());
    database.execute(
        "CREATE TABLE a (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;"
        "CREATE TABLE b (a TEXT REFERENCES a (id)) STRICT;"
        "INSERT INTO a VALUES ('1', 'x')");
    for (const char* statement : {"INSERT INTO a VALUES ('1', 'y')", "INSERT INTO a VALUES ('2', 'x')",
                                  "INSERT INTO a VALUES ('2', NULL)", "INSERT INTO b VALUES ('2')"})
        expect_error(ErrorCode::already_exists, {"constraint failed"}, [&] { database.execute(statement); });
}

TEST_F(DatabaseTest, RefusesASecondDaemon) {
    auto first = std::make_unique<Database>(path());
    expect_error(ErrorCode::busy, {path(), "another process"}, [&] { const Database second(path()); });
    first.reset();
    const Database next(path());
}

TEST_F(DatabaseTest, RefusesALinkInItsPlace) {
    { const Database other(directory_ / "other.db"); }
    ASSERT_EQ(::symlink("other.db", path().c_str()), 0);
    expect_error(ErrorCode::unsafe_image, {path()}, [&] { const Database database(path()); });
}

TEST_F(DatabaseTest, RefusesAFileThatIsNoDatabase) {
    std::ofstream(path()) << std::string(8192, 'x');
    expect_error(ErrorCode::internal, {"state database", "not a database"},
                 [&] { const Database database(path()); });
}

TEST_F(DatabaseTest, RefusesADirectoryThatIsNotThere) {
    expect_error(ErrorCode::not_found, {"/none/"},
                 [&] { const Database database(directory_ / "none/x.db"); });
}

TEST_F(DatabaseTest, NamesAFullFileSystem) {
    Database database(path());
    database.execute("CREATE TABLE t (a TEXT) STRICT");
    database.execute("PRAGMA max_page_count=3");
    auto insert = database.prepare("INSERT INTO t VALUES (?)");
    expect_error(ErrorCode::no_space, {"full"}, [&] { insert.bind(std::string(1 << 16, 'x')).run(); });
}

}  // namespace
}  // namespace volchain::storage::database_test
