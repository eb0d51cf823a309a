// SPDX-License-Identifier: MIT
#include "storage/images/image_owner.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "support.h"

namespace volchain::storage::image_owner_test {
namespace {

namespace fs = std::filesystem;

class ImageOwnerTest : public testing::Test {
  protected:
    ImageOwnerTest() { qcow2::store(path("image"), qcow2::Bytes(1)); }
    [[nodiscard]] std::string path(std::string_view name) const { return directory_ / name; }
    void give(const std::string& what, uid_t user) const {
        ASSERT_EQ(::chown(what.c_str(), user, user), 0) << what;
    }
    [[nodiscard]] uid_t owner(const std::string& file) const {
        return image_owner(directory_.path(), file).uid;
    }

    TemporaryDirectory directory_;
};

TEST_F(ImageOwnerTest, IsWhoOwnsTheFile) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    EXPECT_EQ(owner("image"), 0u);
    give(path("image"), 1234);
    EXPECT_EQ(owner("image"), 1234u);
    give(directory_.path(), 1234);
    EXPECT_EQ(owner("image"), 1234u);
    give(path("image"), 0);
    expect_error(ErrorCode::unsafe_image, {"image", "root's"}, [&] { (void)owner("image"); });
}

TEST_F(ImageOwnerTest, IsOfNoLinkAndNoDirectory) {
    fs::create_symlink("image", path("link"));
    fs::create_directory(path("directory"));
    fs::create_symlink("directory", path("other"));
    qcow2::store(path("directory/image"), qcow2::Bytes(1));
    for (const char* file : {"link", "directory", "other/image", "../image"})
        expect_error(ErrorCode::unsafe_image, {}, [&] { (void)owner(file); });
    EXPECT_EQ(owner("directory/image"), ::geteuid());
    expect_error(ErrorCode::not_found, {"none"}, [&] { (void)owner("none"); });
}

}  // namespace
}  // namespace volchain::storage::image_owner_test
