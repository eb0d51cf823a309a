// SPDX-License-Identifier: MIT
#include "storage/vms/nvram.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "support.h"

namespace volchain::storage::nvram_test {
namespace {

namespace fs = std::filesystem;

class NvramTest : public testing::Test {
  protected:
    NvramTest() { write(path(), "variables"); }

    [[nodiscard]] std::string path() const { return directory_ / "web.fd"; }
    static void write(const std::string& path, const std::string& content) {
        std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    }
    static std::string content(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }
    [[nodiscard]] NvramStore named() const {
        return named_stores({path()}, UserRights::of(::geteuid())).front();
    }
    void refuses(ErrorCode code, const std::string& part, const std::vector<std::string>& paths) const {
        SCOPED_TRACE(part);
        expect_error(code, {part}, [&] { (void)named_stores(paths, UserRights::of(::geteuid())); });
    }
    [[nodiscard]] SnapshotFile copy_with(const std::string& content) const {
        write(directory_ / "copy", content);
        return {SnapshotFileKind::nvram, Uuid::make(), "copy", content.size(), path()};
    }

    TemporaryDirectory directory_;
};

TEST_F(NvramTest, IsNamedWithItsOwner) {
    EXPECT_EQ(named(), (NvramStore{path(), ::geteuid()}));
    EXPECT_EQ(store_bytes(named()), 9u);
    EXPECT_EQ(read_store(named()), "variables");
}

TEST_F(NvramTest, OnlyARegularFileIsNamed) {
    refuses(ErrorCode::invalid_argument, "absolute", {"web.fd"});
    refuses(ErrorCode::invalid_argument, "not the path of a file", {directory_ / "x/../web.fd"});
    refuses(ErrorCode::invalid_argument, "not the path of a file", {path() + "/"});
    refuses(ErrorCode::invalid_argument, "named twice", {path(), path()});
    refuses(ErrorCode::invalid_argument, "more than 8", std::vector<std::string>(9, path()));
    refuses(ErrorCode::not_found, "gone", {directory_ / "gone"});
    EXPECT_THROW((void)named_stores({directory_.path()}, UserRights::of(::geteuid())), Error);
    fs::create_symlink(path(), directory_ / "link");
    EXPECT_THROW((void)named_stores({directory_ / "link"}, UserRights::of(::geteuid())), Error);
    write(directory_ / "empty", "");
    refuses(ErrorCode::unsafe_image, "is empty", {directory_ / "empty"});
    write(directory_ / "large", "");
    fs::resize_file(directory_ / "large", max_nvram_bytes + 1);
    refuses(ErrorCode::unsafe_image, "is larger", {directory_ / "large"});
    qmp::create_image(directory_ / "disk", "qcow2", "1M");
    refuses(ErrorCode::invalid_argument, "image of a disk", {directory_ / "disk"});
    fs::create_hard_link(path(), directory_ / "other");
    refuses(ErrorCode::unsafe_image, "several names", {path()});
}

TEST_F(NvramTest, OnlyWhoMayWriteItMayNameIt) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
    ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
    ASSERT_EQ(::chmod(path().c_str(), 0644), 0);
    expect_error(ErrorCode::access_denied, {path()},
                 [&] { (void)named_stores({path()}, UserRights::of(65534)); });
    ASSERT_EQ(::chown(path().c_str(), 65534, 65534), 0);
    const NvramStore store = named_stores({path()}, UserRights::of(65534)).front();
    EXPECT_EQ(store.uid, 65534u);
    // What somebody else has put in its place is not read.
    ASSERT_EQ(::chown(path().c_str(), 0, 0), 0);
    expect_error(ErrorCode::unsafe_image, {path(), "belongs to user 0"}, [&] { (void)read_store(store); });
}

TEST_F(NvramTest, IsReplacedWithTheRightsItHad) {
    const NvramStore store = named();
    ASSERT_EQ(::chmod(path().c_str(), 0640), 0);
    const SnapshotFile copy = copy_with("former ones");
    EXPECT_EQ(read_copy(directory_.path(), copy), "former ones");
    replace_store(store, read_copy(directory_.path(), copy), directory_.path(), copy);
    EXPECT_EQ(content(path()), "former ones");
    struct stat status {};
    ASSERT_EQ(::stat(path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777u, 0640u);
    EXPECT_EQ(status.st_nlink, 1u);
    // Also where it is gone, and where a crash has left something.
    fs::remove(path());
    write(directory_ / ".web.fd.volchain", "half of it");
    replace_store(store, "anew", directory_.path(), copy);
    EXPECT_EQ(content(path()), "anew");
    EXPECT_FALSE(fs::exists(directory_ / ".web.fd.volchain"));
}

TEST_F(NvramTest, ACopyIsWhatWasWritten) {
    SnapshotFile copy = copy_with("12345");
    copy.bytes = 4;
    expect_error(ErrorCode::corrupt_image, {"has 5 bytes, not 4"},
                 [&] { (void)read_copy(directory_.path(), copy); });
    fill_copy(directory_.path(), "copy", "abcde");
    EXPECT_EQ(content(directory_ / "copy"), "abcde");
}

TEST_F(NvramTest, AQemuThatRunsOnItIsSeen) {
    EXPECT_TRUE(lock_store(named()).has_value());
    fs::remove(path());
    EXPECT_FALSE(lock_store({path(), ::geteuid()}).has_value());
    expect_error(ErrorCode::not_found, {}, [&] {
        (void)lock_store({directory_ / "gone/web.fd", ::geteuid()});
    });
}

}  // namespace
}  // namespace volchain::storage::nvram_test
