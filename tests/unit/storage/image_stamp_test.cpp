// SPDX-License-Identifier: MIT
#include "storage/images/image_stamp.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"
#include "support.h"

namespace volchain::storage::image_stamp_test {
namespace {

class ImageStampTest : public testing::Test {
  protected:
    ImageStampTest() {
        const std::vector<std::byte> content(1 << 20, std::byte{7});
        write_at(file_.get(), content, 0);
        while (!stamp().tick_passed(now())) std::this_thread::yield();
        before_ = stamp().str();
    }

    [[nodiscard]] ImageStamp stamp() const { return ImageStamp::of(file_.get()); }

    TemporaryDirectory directory_;
    UniqueFd file_{::open((directory_ / "image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    std::string before_;
};

TEST_F(ImageStampTest, IsTheSameAsLongAsNothingIsWritten) {
    std::vector<std::byte> buffer(4096);
    EXPECT_EQ(read_at(file_.get(), buffer, 0), buffer.size());
    EXPECT_EQ(::fchmod(file_.get(), 0640), 0);
    sync(file_.get(), "image");
    EXPECT_EQ(stamp().str(), before_);
    EXPECT_EQ(ImageStamp::of(directory_ / ".", "image").str(), before_);
}

TEST_F(ImageStampTest, ShowsAWriteOfTheSame) {
    const std::vector<std::byte> one(1, std::byte{7});
    write_at(file_.get(), one, 0);
    EXPECT_NE(stamp().str(), before_);
}

TEST_F(ImageStampTest, ShowsAHole) {
    if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 65536) < 0)
        GTEST_SKIP() << "no holes here";
    EXPECT_NE(stamp().str(), before_);
}

TEST_F(ImageStampTest, ShowsAnotherFileInItsPlace) {
    const std::string path = directory_ / "image";
    ASSERT_EQ(::rename(path.c_str(), (path + ".away").c_str()), 0);
    expect_error(ErrorCode::not_found, {"image"}, [&] { (void)ImageStamp::of(directory_ / ".", "image"); });
    const UniqueFd other(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_NE(ImageStamp::of(directory_ / ".", "image").str(), before_);
}

TEST_F(ImageStampTest, KnowsWhatItCannotTell) {
    const std::vector<std::byte> one(1, std::byte{8});
    write_at(file_.get(), one, 0);
    struct stat status {};
    ASSERT_EQ(::fstat(file_.get(), &status), 0);
    const Timestamp written = from_usec(static_cast<std::uint64_t>(status.st_mtim.tv_sec) * 1'000'000 +
                                        static_cast<std::uint64_t>(status.st_mtim.tv_nsec) / 1000);
    EXPECT_FALSE(stamp().tick_passed(written));
    EXPECT_FALSE(stamp().tick_passed(written + std::chrono::milliseconds(10)));
    EXPECT_TRUE(stamp().tick_passed(written + std::chrono::milliseconds(50)));
    // A clock that was set back.
    EXPECT_TRUE(stamp().tick_passed(written - std::chrono::hours(1)));
}

TEST_F(ImageStampTest, WaitsForClocksThatTickSlowly) {
    const timespec whole{1'700'000'000, 0};
    const timespec times[2] = {whole, whole};
    ASSERT_EQ(::futimens(file_.get(), times), 0);
    const Timestamp written = from_usec(1'700'000'000'000'000);
    EXPECT_FALSE(stamp().tick_passed(written + std::chrono::seconds(2)));
    EXPECT_TRUE(stamp().tick_passed(written + std::chrono::seconds(3)));
}

}  // namespace
}  // namespace volchain::storage::image_stamp_test
