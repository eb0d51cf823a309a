// SPDX-License-Identifier: MIT
#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace volchain::file_test {
namespace {

namespace fs = std::filesystem;

class File : public testing::Test {
  protected:
    File() {
        std::string pattern = testing::TempDir() + "volchain-file-XXXXXX";
        directory_ = ::mkdtemp(pattern.data());
        fs::create_directory(directory_ / "pool");
        fd_ = open_directory((directory_ / "pool").string());
    }
    ~File() override { fs::remove_all(directory_); }

    void write(const fs::path& path, std::string_view text) { std::ofstream(directory_ / path) << text; }

    ErrorCode open_error(const std::string& path) {
        try {
            (void)open_beneath(fd_.get(), path, O_RDONLY);
        } catch (const Error& error) {
            return error.code();
        }
        ADD_FAILURE() << path << " was opened";
        return ErrorCode::internal;
    }

    fs::path directory_;
    UniqueFd fd_;
};

TEST_F(File, OpensBeneathItsDirectoryOnly) {
    write("outside", "x");
    write("pool/inside", "x");
    fs::create_symlink(directory_ / "outside", directory_ / "pool/link");
    fs::create_symlink("inside", directory_ / "pool/link-within");
    EXPECT_TRUE(open_beneath(fd_.get(), "inside", O_RDONLY));
    EXPECT_EQ(open_error("../outside"), ErrorCode::unsafe_image);
    EXPECT_EQ(open_error((directory_ / "outside").string()), ErrorCode::unsafe_image);
    EXPECT_EQ(open_error("link"), ErrorCode::unsafe_image);
    EXPECT_EQ(open_error("link-within"), ErrorCode::unsafe_image);
    EXPECT_EQ(open_error("absent"), ErrorCode::not_found);
    EXPECT_EQ(open_error(std::string(300, 'x')), ErrorCode::invalid_argument);
}

TEST_F(File, OpeningAFifoDoesNotBlock) {
    ASSERT_EQ(::mkfifo((directory_ / "pool/fifo").c_str(), 0600), 0);
    EXPECT_TRUE(open_beneath(fd_.get(), "fifo", O_RDONLY));
}

TEST_F(File, ReadsUpToALimit) {
    write("f", "12345");
    EXPECT_EQ(read_file((directory_ / "f").string(), 5), "12345");
    EXPECT_THROW((void)read_file((directory_ / "f").string(), 4), Error);
    EXPECT_THROW((void)read_file((directory_ / "g").string(), 4), Error);
}

TEST_F(File, ReadAtStopsAtTheEnd) {
    write("pool/f", "12345");
    const UniqueFd fd = open_beneath(fd_.get(), "f", O_RDONLY);
    std::array<std::byte, 8> buffer{};
    EXPECT_EQ(read_at(fd.get(), buffer, 3), 2U);
    EXPECT_EQ(buffer[0], std::byte{'4'});
    EXPECT_EQ(read_at(fd.get(), buffer, 5), 0U);
}

TEST_F(File, ReplaceLeavesOneFileWithItsMode) {
    write("pool/.m.new", "left over by a crash");
    replace_file(fd_.get(), "m", "one", 0600);
    replace_file(fd_.get(), "m", "two", 0640);
    EXPECT_EQ(read_file((directory_ / "pool/m").string(), 100), "two");
    struct stat status {};
    ASSERT_EQ(::stat((directory_ / "pool/m").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0640U);
    EXPECT_EQ(std::distance(fs::directory_iterator(directory_ / "pool"), fs::directory_iterator{}), 1);
}

TEST_F(File, RemovesWhatIsThere) {
    fs::create_directory(directory_ / "pool/deeper");
    write("pool/deeper/x", "x");
    fs::create_symlink("deeper", directory_ / "pool/link");
    EXPECT_THROW((void)remove_file(fd_.get(), "link/x"), Error);
    EXPECT_TRUE(remove_file(fd_.get(), "deeper/x"));
    EXPECT_FALSE(fs::exists(directory_ / "pool/deeper/x"));
    EXPECT_FALSE(remove_file(fd_.get(), "deeper/x"));
    write("pool/y", "y");
    EXPECT_TRUE(remove_file(fd_.get(), "y"));
}

TEST_F(File, GetsANameThatNoFileHas) {
    write("pool/part", "new");
    write("pool/taken", "old");
    EXPECT_THROW(rename_to_new(fd_.get(), "part", "taken"), Error);
    EXPECT_EQ(read_file((directory_ / "pool/taken").string(), 10), "old");
    rename_to_new(fd_.get(), "part", "name");
    EXPECT_EQ(read_file((directory_ / "pool/name").string(), 10), "new");
    EXPECT_FALSE(fs::exists(directory_ / "pool/part"));
    EXPECT_THROW(rename_to_new(fd_.get(), "part", "other"), Error);
}

}  // namespace
}  // namespace volchain::file_test
