// SPDX-License-Identifier: MIT
#include "storage/images/overlay_file.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <future>
#include <set>

#include "qmp/image_lock.h"
#include "storage/images/image.h"
#include "support.h"

namespace volchain::storage::overlay_file_test {
namespace {

namespace fs = std::filesystem;

void expect_clean(const std::string& path) {
    const auto check = qcow2::run({"qemu-img", "check", "--output=json", "-f", "qcow2", path});
    EXPECT_EQ(check.status, 0) << check.output << check.errors;
    const Json result = Json::parse(check.output);
    EXPECT_FALSE(result.contains("leaks") || result.contains("corruptions")) << check.output;
}

struct stat status_of(const std::string& path) {
    struct stat status {};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0) << path;
    return status;
}

class OverlayFileTest : public testing::Test {
  protected:
    [[nodiscard]] OverlayFile overlay(const std::string& parent, VolumeFormat format = VolumeFormat::qcow2,
                                      const std::string& file = "overlay.qcow2") const {
        return {directory_.path(), parent, format, file};
    }
    [[nodiscard]] std::string path(std::string_view name) const { return directory_ / name; }
    [[nodiscard]] std::set<std::string> names() const {
        std::set<std::string> found;
        for (const auto& entry : fs::directory_iterator(directory_.path()))
            found.insert(entry.path().filename().string());
        return found;
    }
    /// Makes the overlay, holds it to QEMU, and shows that it has the parent's content.
    void expect_good(const OverlayFile& wanted, std::uint64_t size) const {
        EXPECT_EQ(create_overlay_file(wanted), size);
        const std::string made = path(wanted.file);
        expect_clean(made);
        const Json info = qcow2::info(made).value();
        EXPECT_EQ(info.at("virtual-size").get<std::uint64_t>(), size);
        EXPECT_EQ(fs::path(info.at("full-backing-filename").get<std::string>()).lexically_normal(),
                  fs::path(path(wanted.parent)).lexically_normal());
        EXPECT_EQ(info.at("backing-filename-format"), word(wanted.parent_format));
        EXPECT_TRUE(overlay_is_pristine(wanted));
        run_well({"qemu-img", "compare", "-f", "qcow2", "-F", std::string(word(wanted.parent_format)), made,
                  path(wanted.parent)});
    }

    TemporaryDirectory directory_;
};

TEST_F(OverlayFileTest, TakesAfterItsParent) {
    const std::vector<std::pair<std::string, std::string>> parents{
        {"64k", ""},
        {"3M", "cluster_size=4k"},
        {"1G", "cluster_size=2M"},
        {"1G", "cluster_size=64k,extended_l2=on"},
        {"5M", "compression_type=zstd"},
        {"5M", "lazy_refcounts=on"},
        {"5M", "refcount_bits=1"},
        {"5M", "refcount_bits=64"},
        {"5M", "compat=0.10"},
        {"512", "cluster_size=512"},
        {"0", ""},
        {"8T", ""},
    };
    for (const auto& [size, options] : parents) {
        SCOPED_TRACE(size + " " + options);
        qcow2::create(path("parent.qcow2"), size, options);
        const qcow2::Header parent = qcow2::header_of_file(path("parent.qcow2"));
        if (parent.virtual_size >= 65536)
            run_well({"qemu-io", "-f", "qcow2", "-c", "write -P 7 512 3k", path("parent.qcow2")});
        expect_good(overlay("parent.qcow2"), parent.virtual_size);
        const qcow2::Header made = qcow2::header_of_file(path("overlay.qcow2"));
        EXPECT_EQ(made.cluster_size(), parent.cluster_size());
        EXPECT_EQ(made.refcount_bits(), parent.refcount_bits());
        EXPECT_EQ(made.features.extended_l2, parent.features.extended_l2);
        EXPECT_EQ(made.compression, parent.compression);
        EXPECT_EQ(made.backing_file, "parent.qcow2") << "both move together";
        fs::remove(path("overlay.qcow2"));
        fs::remove(path("parent.qcow2"));
    }
}

TEST_F(OverlayFileTest, StandsOnARawImageOfAnyLength) {
    for (const std::uint64_t length : {std::uint64_t{512}, std::uint64_t{1000}, mib + 1, 70 * mib}) {
        qcow2::Bytes bytes(length, std::byte{9});
        qcow2::store(path("parent.img"), bytes);
        expect_good(overlay("parent.img", VolumeFormat::raw), raw_disk_size(length));
        fs::remove(path("overlay.qcow2"));
    }
}

TEST_F(OverlayFileTest, IsMadeBesideAParentInADirectoryOfThePool) {
    fs::create_directory(path("deeper"));
    qcow2::create(path("deeper/parent.qcow2"), "1M");
    const std::string name = overlay_file_name("deeper/parent.qcow2", "root", Uuid::make());
    EXPECT_EQ(fs::path(name).parent_path(), "deeper");
    expect_good(overlay("deeper/parent.qcow2", VolumeFormat::qcow2, name), mib);
}

TEST_F(OverlayFileTest, StandsOnAParentWhoseNameQemuWouldTakeForAProtocol) {
    qcow2::create(path("nbd:10.0.0.1:80"), "1M");
    expect_good(overlay("nbd:10.0.0.1:80"), mib);
}

TEST_F(OverlayFileTest, HasAName) {
    const Uuid id = Uuid::make();
    EXPECT_EQ(overlay_file_name("base.qcow2", "root", id), "root-" + id.str() + ".qcow2");
    EXPECT_EQ(overlay_file_name("a/b/base.qcow2", "../a b/é", id), "a/b/_.._a_b___-" + id.str() + ".qcow2");
    EXPECT_LE(overlay_file_name("b", std::string(1000, 'x'), id).size(), 255u);
}

TEST_F(OverlayFileTest, WorksAsAnOverlay) {
    qcow2::create(path("parent.qcow2"), "3M");
    run_well({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path("parent.qcow2")});
    const OverlayFile made = overlay("parent.qcow2");
    (void)create_overlay_file(made);
    run_well({"qemu-io", "-f", "qcow2", "-c", "read -P 7 0 1M", "-c", "write -P 8 512k 1M", "-c",
              "read -P 7 0 512k", "-c", "read -P 8 512k 1M", "-c", "read -P 0 1536k 1536k", path(made.file)});
    expect_clean(path(made.file));
    EXPECT_FALSE(overlay_is_pristine(made));
    run_well({"qemu-io", "-f", "qcow2", "-c", "read -P 7 0 1M", path("parent.qcow2")});
}

// --- access ---------------------------------------------------------------------------------------------

TEST_F(OverlayFileTest, IsNobodysButItsOwnersWhateverTheUmask) {
    qcow2::create(path("parent.qcow2"), "1M");
    for (const mode_t mode : {0600u, 0640u, 0660u, 0664u}) {
        ASSERT_EQ(::chmod(path("parent.qcow2").c_str(), mode), 0);
        const mode_t before = ::umask(0);
        (void)create_overlay_file(overlay("parent.qcow2"));
        ::umask(before);
        EXPECT_EQ(status_of(path("overlay.qcow2")).st_mode & 07777, mode);
        fs::remove(path("overlay.qcow2"));
    }
}

TEST_F(OverlayFileTest, CanBeWrittenWhereTheParentIsATemplate) {
    qcow2::create(path("parent.qcow2"), "1M");
    ASSERT_EQ(::chmod(path("parent.qcow2").c_str(), 0444), 0);
    (void)create_overlay_file(overlay("parent.qcow2"));
    EXPECT_EQ(status_of(path("overlay.qcow2")).st_mode & 07777, 0644u);
}

TEST_F(OverlayFileTest, BelongsToWhomTheParentBelongsTo) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
    qcow2::create(path("parent.qcow2"), "1M");
    ASSERT_EQ(::chown(path("parent.qcow2").c_str(), 12345, 23456), 0);
    (void)create_overlay_file(overlay("parent.qcow2"));
    const struct stat status = status_of(path("overlay.qcow2"));
    EXPECT_EQ(status.st_uid, 12345u);
    EXPECT_EQ(status.st_gid, 23456u);
}

/// A POSIX ACL of version 2 (linux/posix_acl_xattr.h): the owner, user 1234 (read and write), group, mask,
/// others.
std::string acl_for_one_user() {
    struct Entry {
        std::uint16_t tag, permissions;
        std::uint32_t id;
    };
    constexpr std::uint32_t undefined = 0xffffffff;
    const std::array entries{Entry{1, 6, undefined}, Entry{2, 6, 1234}, Entry{4, 4, undefined},
                             Entry{16, 6, undefined}, Entry{32, 0, undefined}};
    std::string acl("\2\0\0\0", 4);
    for (const Entry& entry : entries) acl.append(reinterpret_cast<const char*>(&entry), sizeof entry);
    return acl;
}

TEST_F(OverlayFileTest, MayBeOpenedByWhomTheParentMay) {
    qcow2::create(path("parent.qcow2"), "1M");
    const std::string acl = acl_for_one_user();
    constexpr const char* name = "system.posix_acl_access";
    if (::setxattr(path("parent.qcow2").c_str(), name, acl.data(), acl.size(), 0) < 0 && errno == ENOTSUP)
        GTEST_SKIP() << "the file system has no ACLs";
    (void)create_overlay_file(overlay("parent.qcow2"));
    std::string found(4096, '\0');
    const ssize_t size = ::getxattr(path("overlay.qcow2").c_str(), name, found.data(), found.size());
    ASSERT_GE(size, 0);
    EXPECT_EQ(found.substr(0, static_cast<std::size_t>(size)), acl);
    EXPECT_EQ(status_of(path("overlay.qcow2")).st_mode & 07777,
              status_of(path("parent.qcow2")).st_mode & 07777);
}

TEST_F(OverlayFileTest, HasNoAclWhereTheParentHasNone) {
    const std::string acl = acl_for_one_user();
    if (::setxattr(directory_.path().c_str(), "system.posix_acl_default", acl.data(), acl.size(), 0) < 0 &&
        errno == ENOTSUP)
        GTEST_SKIP() << "the file system has no ACLs";
    qcow2::create(path("parent.qcow2"), "1M");
    constexpr const char* name = "system.posix_acl_access";
    ASSERT_EQ(::removexattr(path("parent.qcow2").c_str(), name), 0);
    ASSERT_EQ(::chmod(path("parent.qcow2").c_str(), 0640), 0);
    (void)create_overlay_file(overlay("parent.qcow2"));
    EXPECT_LT(::getxattr(path("overlay.qcow2").c_str(), name, nullptr, 0), 0) << "that of the directory";
    EXPECT_EQ(status_of(path("overlay.qcow2")).st_mode & 07777, 0640u);
}

// --- failures -------------------------------------------------------------------------------------------

TEST_F(OverlayFileTest, TakesNoPlaceThatIsTaken) {
    qcow2::create(path("parent.qcow2"), "1M");
    const qcow2::Bytes other(100, std::byte{5});
    qcow2::store(path("overlay.qcow2"), other);
    expect_error(ErrorCode::already_exists, {"overlay.qcow2"},
                 [&] { (void)create_overlay_file(overlay("parent.qcow2")); });
    EXPECT_EQ(qcow2::load(path("overlay.qcow2")), other);
    fs::remove(path("overlay.qcow2"));
    fs::create_symlink("elsewhere", path("overlay.qcow2"));
    const auto error = error_of([&] { (void)create_overlay_file(overlay("parent.qcow2")); });
    ASSERT_TRUE(error.has_value());
    EXPECT_FALSE(fs::exists(path("elsewhere"))) << "a link is not followed";
}

TEST_F(OverlayFileTest, IsMadeByOneOfManyAtATime) {
    qcow2::create(path("parent.qcow2"), "1M");
    std::vector<std::future<bool>> attempts;
    for (int number = 0; number < 8; ++number)
        attempts.push_back(std::async(std::launch::async, [this] {
            return !error_of([this] { (void)create_overlay_file(overlay("parent.qcow2")); }).has_value();
        }));
    int made = 0;
    for (auto& attempt : attempts) made += attempt.get() ? 1 : 0;
    EXPECT_EQ(made, 1);
    expect_clean(path("overlay.qcow2"));
}

TEST_F(OverlayFileTest, RefusesAParentThatIsNotWhatItIsSaidToBe) {
    qcow2::store(path("parent.qcow2"), qcow2::Bytes(4096, std::byte{1}));
    expect_error(ErrorCode::corrupt_image, {}, [&] { (void)create_overlay_file(overlay("parent.qcow2")); });
    expect_error(ErrorCode::not_found, {"none"}, [&] { (void)create_overlay_file(overlay("none")); });
    fs::create_symlink("/etc/passwd", path("link"));
    expect_error(ErrorCode::unsafe_image, {"link"},
                 [&] { (void)create_overlay_file(overlay("link", VolumeFormat::raw)); });
    EXPECT_THAT(names(), ElementsAre("link", "parent.qcow2"));
}

TEST_F(OverlayFileTest, LeavesNothingWhereTheFileSystemIsFull) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can mount";
    qcow2::create(path("parent.qcow2"), "1G");
    const std::string full = path("full");
    fs::create_directory(full);
    ASSERT_EQ(::mount("tmpfs", full.c_str(), "tmpfs", 0, "size=300k"), 0) << errno;
    fs::copy(path("parent.qcow2"), full + "/parent.qcow2");
    // So that there is room for some of the overlay's clusters, not for all.
    qcow2::store(full + "/filler", qcow2::Bytes(4096, std::byte{1}));
    for (std::size_t length = 8192;; length += 4096) {
        if (error_of([&] { qcow2::store(full + "/filler", qcow2::Bytes(length, std::byte{1})); })) break;
        if (fs::space(full).available <= 8192) break;
    }
    expect_error(ErrorCode::no_space, {"creating overlay", full + "/overlay.qcow2"}, [&] {
        (void)create_overlay_file({full, "parent.qcow2", VolumeFormat::qcow2, "overlay.qcow2"});
    });
    EXPECT_FALSE(fs::exists(full + "/overlay.qcow2"));
    EXPECT_EQ(::umount2(full.c_str(), MNT_DETACH), 0);
}

TEST_F(OverlayFileTest, SaysThatADirectoryIsReadOnly) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can mount";
    fs::create_directory(path("inner"));
    qcow2::create(path("inner/parent.qcow2"), "1M");
    const std::string inner = path("inner");
    ASSERT_EQ(::mount(inner.c_str(), inner.c_str(), nullptr, MS_BIND, nullptr), 0) << errno;
    ASSERT_EQ(::mount(nullptr, inner.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr), 0)
        << errno;
    expect_error(ErrorCode::read_only, {"overlay.qcow2"}, [&] {
        (void)create_overlay_file({inner, "parent.qcow2", VolumeFormat::qcow2, "overlay.qcow2"});
    });
    EXPECT_EQ(::umount2(inner.c_str(), MNT_DETACH), 0);
    EXPECT_FALSE(fs::exists(inner + "/overlay.qcow2"));
}

// --- taking it away -------------------------------------------------------------------------------------

TEST_F(OverlayFileTest, IsRemovedAlsoWhereItNeverWas) {
    qcow2::create(path("parent.qcow2"), "1M");
    const OverlayFile made = overlay("parent.qcow2");
    for (const bool opened : {false, true}) {
        (void)create_overlay_file(made);
        remove_new_overlay(made, opened);
        EXPECT_THAT(names(), ElementsAre("parent.qcow2"));
        remove_new_overlay(made, opened);
        EXPECT_TRUE(overlay_is_pristine(made));
    }
}

TEST_F(OverlayFileTest, IsRemovedHalfMadeWhereQemuNeverHadIt) {
    qcow2::create(path("parent.qcow2"), "1M");
    qcow2::store(path("overlay.qcow2"), qcow2::Bytes(10, std::byte{1}));
    const OverlayFile half = overlay("parent.qcow2");
    EXPECT_FALSE(overlay_is_pristine(half));
    expect_error(ErrorCode::in_use, {"overlay.qcow2"}, [&] { remove_new_overlay(half, true); });
    remove_new_overlay(half, false);
    EXPECT_THAT(names(), ElementsAre("parent.qcow2"));
}

TEST_F(OverlayFileTest, IsPristineWhereItWasNeverFilled) {
    qcow2::create(path("parent.qcow2"), "1M");
    const OverlayFile empty = overlay("parent.qcow2");
    for (const std::size_t size :
         {0U, 10U, 65536U}) {  // as a power cut in the middle of its creation leaves it
        qcow2::store(path("overlay.qcow2"), qcow2::Bytes(size, std::byte{0}));
        EXPECT_TRUE(overlay_is_pristine(empty)) << size;
        remove_new_overlay(empty, true);
        EXPECT_THAT(names(), ElementsAre("parent.qcow2"));
    }
}

TEST_F(OverlayFileTest, IsNotTakenForGoneWhereItsParentIsNotThereEither) {
    const OverlayFile away = overlay("parent.qcow2");
    expect_error(ErrorCode::broken_chain, {"overlay.qcow2", "mounted"},
                 [&] { (void)overlay_is_pristine(away); });
    expect_error(ErrorCode::broken_chain, {}, [&] { remove_new_overlay(away, true); });
    remove_new_overlay(away, false);  // it was never made, since there was no parent
}

TEST_F(OverlayFileTest, IsNotRemovedWithDataInIt) {
    qcow2::create(path("parent.qcow2"), "1M");
    const OverlayFile made = overlay("parent.qcow2");
    (void)create_overlay_file(made);
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 512", path(made.file)});
    expect_error(ErrorCode::in_use, {path(made.file), "holds data"}, [&] { remove_new_overlay(made, true); });
    EXPECT_TRUE(fs::exists(path(made.file)));
}

TEST_F(OverlayFileTest, IsNotRemovedWhereItStandsOnSomethingElse) {
    qcow2::create(path("parent.qcow2"), "1M");
    const OverlayFile made = overlay("parent.qcow2");
    (void)create_overlay_file(made);
    run_well(
        {"qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "other.qcow2", "-F", "qcow2", path(made.file)});
    EXPECT_FALSE(overlay_is_pristine(made));
    expect_error(ErrorCode::in_use, {}, [&] { remove_new_overlay(made, true); });
}

TEST_F(OverlayFileTest, IsNotRemovedWhileAProcessHasIt) {
    qcow2::create(path("parent.qcow2"), "1M");
    const OverlayFile made = overlay("parent.qcow2");
    (void)create_overlay_file(made);
    {
        // As a QEMU would (image_lock.h).
        const auto held = qmp::ImageLock::take_writer(
            UniqueFd(::open(path(made.file).c_str(), O_RDONLY | O_CLOEXEC)), path(made.file));
        expect_error(ErrorCode::in_use, {path(made.file)}, [&] { remove_new_overlay(made, true); });
    }
    EXPECT_TRUE(fs::exists(path(made.file)));
    remove_new_overlay(made, true);
    EXPECT_FALSE(fs::exists(path(made.file)));
}

}  // namespace
}  // namespace volchain::storage::overlay_file_test
