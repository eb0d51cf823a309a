// SPDX-License-Identifier: MIT
#include "storage/pools/pool.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <climits>
#include <filesystem>

#include "support.h"

namespace volchain::storage::pool_test {
namespace {

namespace fs = std::filesystem;

class PoolTest : public testing::Test {
  protected:
    [[nodiscard]] std::string path(std::string_view name) const { return directory_ / name; }
    void refuses(ErrorCode code, const std::vector<std::string>& parts, const std::string& wanted,
                 bool create = false) const {
        SCOPED_TRACE(wanted.substr(0, 100));
        expect_error(code, parts, [&] { (void)resolve_pool_path(wanted, create); });
    }

    TemporaryDirectory directory_;
};

TEST_F(PoolTest, IsLookedAt) {
    struct statvfs room {};
    ASSERT_EQ(::statvfs(directory_.path().c_str(), &room), 0);
    const PoolStatus status = inspect_pool(directory_.path(), false);
    EXPECT_EQ(word(status.state), "ok");
    EXPECT_EQ(status.capacity, std::uint64_t{room.f_blocks} * room.f_frsize);
    EXPECT_GT(status.free, 0u);
    EXPECT_LE(status.free, status.capacity);
    EXPECT_NE(status.filesystem, "");
    EXPECT_FALSE(status.reflink) << "not asked for";
}

TEST_F(PoolTest, KnowsAFileSystemByItsName) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can mount";
    ASSERT_EQ(::mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=1m"), 0) << errno;
    const PoolStatus status = inspect_pool(directory_.path(), true);
    EXPECT_EQ(status.filesystem, "tmpfs");
    EXPECT_TRUE(status.local);
    EXPECT_EQ(status.capacity, mib);
    EXPECT_FALSE(status.reflink);
    EXPECT_TRUE(fs::is_empty(directory_.path())) << "trying it out leaves nothing behind";
    ASSERT_EQ(::mount(nullptr, directory_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0)
        << errno;
    EXPECT_EQ(word(inspect_pool(directory_.path(), true).state), "read-only");
    EXPECT_EQ(::umount2(directory_.path().c_str(), MNT_DETACH), 0);
}

TEST_F(PoolTest, TriesOutWhetherBlocksCanBeShared) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can mount";
    const std::string image = path("xfs.img");
    const std::string mounted = path("mounted");
    fs::create_directory(mounted);
    if (qcow2::run({"truncate", "-s", "320M", image}).status != 0 ||
        qcow2::run({"mkfs.xfs", "-q", "-m", "reflink=1", image}).status != 0 ||
        qcow2::run({"mount", "-o", "loop", image, mounted}).status != 0)
        GTEST_SKIP() << "no xfs on a loop device here";
    const PoolStatus status = inspect_pool(mounted, true);
    (void)qcow2::run({"umount", "-l", mounted});
    EXPECT_EQ(status.filesystem, "xfs");
    EXPECT_TRUE(status.reflink);
}

TEST_F(PoolTest, IsMissingWhereItIsNoDirectory) {
    EXPECT_EQ(word(inspect_pool(path("none"), true).state), "missing");
    qcow2::store(path("file"), qcow2::Bytes(1));
    EXPECT_EQ(word(inspect_pool(path("file"), true).state), "missing");
    fs::create_directory(path("real"));
    fs::create_directory_symlink("real", path("link"));
    EXPECT_EQ(word(inspect_pool(path("link"), true).state), "missing")
        << "it was a directory when it was registered";
}

TEST_F(PoolTest, HasAPathWithoutLinks) {
    fs::create_directory(path("real"));
    fs::create_directory_symlink("real", path("link"));
    const std::string real = fs::canonical(path("real")).string();
    EXPECT_EQ(resolve_pool_path(path("real"), false), real);
    EXPECT_EQ(resolve_pool_path(path("link"), false), real);
    EXPECT_EQ(resolve_pool_path(path("real/"), false), real);
    EXPECT_EQ(resolve_pool_path(path("./real/."), false), real);
}

TEST_F(PoolTest, IsMadeWhereThatIsAskedFor) {
    refuses(ErrorCode::not_found, {path("new")}, path("new"));
    const mode_t before = ::umask(0);
    const std::string made = resolve_pool_path(path("new"), true);
    ::umask(before);
    EXPECT_EQ(made, fs::canonical(path("new")).string());
    struct stat status {};
    ASSERT_EQ(::stat(path("new").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0711u);
    EXPECT_NO_THROW((void)resolve_pool_path(path("new"), true)) << "it may be there already";
    refuses(ErrorCode::not_found, {path("no/parent")}, path("no/parent"), true);
}

TEST_F(PoolTest, RefusesWhatIsNoPlainPath) {
    qcow2::store(path("file"), qcow2::Bytes(1));
    refuses(ErrorCode::invalid_argument, {"not absolute"}, "relative/path");
    refuses(ErrorCode::invalid_argument, {"not absolute"}, "");
    refuses(ErrorCode::invalid_argument, {"'..'"}, directory_.path() + "/../etc");
    refuses(ErrorCode::invalid_argument, {"'..'"}, path("new/.."), true);
    refuses(ErrorCode::invalid_argument, {"not a directory"}, path("file"));
    refuses(ErrorCode::invalid_argument, {"UTF-8"}, path("\xff"));
    refuses(ErrorCode::invalid_argument, {"UTF-8"}, path(std::string("a\0b", 3)));
    refuses(ErrorCode::invalid_argument, {"too long"}, "/" + std::string(PATH_MAX, 'x'));
    refuses(ErrorCode::invalid_argument, {}, "/" + std::string(300, 'x'), true);
    EXPECT_FALSE(fs::exists(path("new")));
}

}  // namespace
}  // namespace volchain::storage::pool_test
