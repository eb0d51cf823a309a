// SPDX-License-Identifier: MIT
//
// What is refused of a foreign image, by our own reader alone: no program of QEMU opens one here but to make
// it.
#include "storage/images/image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "support.h"

namespace volchain::storage::image_test {
namespace {

namespace fs = std::filesystem;
using qcow2::Bytes;
using qcow2::created;
using qcow2::put;

constexpr auto undeclared = std::nullopt;

// Offsets in the header (qcow2 specification, "Header").
constexpr std::size_t cluster_bits_at = 20;
constexpr std::size_t size_at = 24;
constexpr std::size_t crypt_at = 32;
constexpr std::size_t l1_entries_at = 36;
constexpr std::size_t l1_table_at = 40;
constexpr std::size_t incompatible_at = 72;

class ImageTest : public testing::Test {
  protected:
    [[nodiscard]] std::string pool() const { return directory_.path(); }
    [[nodiscard]] std::string path(std::string_view name) const { return directory_ / name; }

    void store(std::string_view name, const Bytes& bytes) const { qcow2::store(path(name), bytes); }
    /// An image over that name, which nobody looks at while it is made.
    void over(const std::string& name, const std::string& backing,
              const std::string& format = "qcow2") const {
        qcow2::Words words{"-u", "-b", backing};
        if (!format.empty()) words.insert(words.end(), {"-F", format});
        qcow2::create(path(name), "1M", format.empty() ? "compat=0.10" : "", words);
    }
    [[nodiscard]] VolumeFacts foreign(const std::string& file,
                                      std::optional<VolumeFormat> format = undeclared) const {
        return inspect_foreign_image(pool(), file, format);
    }
    void refuses(ErrorCode code, const std::vector<std::string>& parts, const std::string& file = "image",
                 std::optional<VolumeFormat> format = undeclared) const {
        SCOPED_TRACE(file);
        expect_error(code, parts, [&] { (void)foreign(file, format); });
    }

    TemporaryDirectory directory_;
};

TEST_F(ImageTest, TakesAnImageOverAnother) {
    fs::create_directory(path("deeper"));
    qcow2::create(path("base.qcow2"), "3M");
    qcow2::create(path("deeper/top.qcow2"), "5M", "cluster_size=4096",
                  {"-b", "../base.qcow2", "-F", "qcow2"});
    run_well({"qemu-img", "bitmap", "--add", path("deeper/top.qcow2"), "tracking"});
    const VolumeFacts facts = foreign("deeper/top.qcow2");
    EXPECT_EQ(word(facts.state), "ok");
    EXPECT_EQ(facts.problem, "");
    EXPECT_EQ(facts.size, 5 * mib);
    EXPECT_EQ(facts.header->cluster_size(), 4096u);
    EXPECT_EQ(facts.backing->name, "../base.qcow2");
    EXPECT_EQ(facts.backing->path, path("base.qcow2"));
    EXPECT_EQ(facts.backing->format, "qcow2");
    ASSERT_EQ(facts.bitmaps.size(), 1u);
    EXPECT_EQ(facts.bitmaps.front().name, "tracking");
    struct stat status {};
    ASSERT_EQ(::stat(path("deeper/top.qcow2").c_str(), &status), 0);
    EXPECT_EQ(facts.allocated, static_cast<std::uint64_t>(status.st_blocks) * 512);
    EXPECT_EQ(word(format_of(facts)), "qcow2");
}

TEST_F(ImageTest, TakesRawForRawWhereItIsDeclared) {
    store("disk.img", Bytes(1000, std::byte{7}));
    const VolumeFacts facts = foreign("disk.img", VolumeFormat::raw);
    EXPECT_EQ(facts.size, 1024u) << "QEMU fills the last sector up";
    EXPECT_FALSE(facts.header.has_value());
    EXPECT_FALSE(facts.backing.has_value());
    EXPECT_EQ(word(format_of(facts)), "raw");
    refuses(ErrorCode::invalid_argument, {"disk.img", "format=raw"}, "disk.img");
    refuses(ErrorCode::corrupt_image, {"declared qcow2"}, "disk.img", VolumeFormat::qcow2);
}

TEST_F(ImageTest, RefusesARawDiskInWhichAGuestWroteAHeader) {
    // What the guest wants: its disk taken for a qcow2 image that stands on a file of the host.
    over("image", "/etc/shadow", "raw");
    refuses(ErrorCode::unsafe_image, {"declared raw", "qcow2", "guest"}, "image", VolumeFormat::raw);
    Bytes large(4 << 20, std::byte{0});
    const Bytes header = qcow2::load(path("image"));
    std::copy_n(header.begin(), 65536, large.begin());
    store("large", large);
    refuses(ErrorCode::unsafe_image, {"declared raw", "qcow2"}, "large", VolumeFormat::raw);
    Bytes footer(1 << 20, std::byte{0});
    qcow2::put_text(footer, footer.size() - 512, "conectix");
    store("footer", footer);
    refuses(ErrorCode::unsafe_image, {"declared raw", "vpc"}, "footer", VolumeFormat::raw);
}

TEST_F(ImageTest, RefusesFormatsThatItDoesNotWorkWith) {
    for (const char* format : {"vmdk", "vdi", "vhdx", "qed", "qcow"}) {
        run_well({"qemu-img", "create", "-q", "-f", format, path(format), "1M"});
        refuses(ErrorCode::unsupported, {format, "convert"}, format);
        refuses(ErrorCode::corrupt_image, {}, format, VolumeFormat::qcow2);
        refuses(ErrorCode::unsafe_image, {format}, format, VolumeFormat::raw);
    }
}

TEST_F(ImageTest, RefusesBackingFilesThatAreMoreThanAPath) {
    for (const char* backing :
         {"json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", "nbd://attacker/export", "nbd:unix:/x",
          "file:/etc/shadow", "fat:/etc", "host_device:/dev/sda", "ssh://host/x", "https://host/x", "a:b",
          "blkdebug::/etc/shadow"}) {
        over("image", backing);
        refuses(ErrorCode::unsafe_image, {std::string(backing).substr(0, 20), "not a plain path"});
        fs::remove(path("image"));
    }
}

TEST_F(ImageTest, TakesAColonBehindASlash) {
    qcow2::create(path("a:b"), "1M");
    over("image", "./a:b");
    EXPECT_EQ(foreign("image").backing->path, path("a:b"));
}

TEST_F(ImageTest, ResolvesABackingFileOutsideForTheCallerToJudge) {
    over("image", "/etc/passwd", "raw");
    EXPECT_EQ(foreign("image").backing->path, "/etc/passwd");
    const std::string up = "../" + fs::path(pool()).filename().string() + "/../../etc/passwd";
    over("up", up, "raw");
    EXPECT_EQ(foreign("up").backing->path, fs::path(pool() + "/" + up).lexically_normal().string());
}

TEST_F(ImageTest, RefusesABackingFileWithoutAFormat) {
    // qemu-img makes none such any more; the extension that says the format is of no known type here.
    qcow2::create(path("base"), "1M");
    over("image", "base");
    Bytes bytes = qcow2::load(path("image"));
    put(bytes, qcow2::extension_at(bytes, 0xe2792aca), std::uint32_t{0x12345678});
    store("image", bytes);
    refuses(ErrorCode::unsafe_image, {"does not say which format", "qemu-img rebase"});
}

TEST_F(ImageTest, RefusesABackingFormatThatItDoesNotWorkWith) {
    qcow2::create(path("base"), "1M");
    for (const char* format : {"vmdk", "file", "luks"}) {
        over("image", "base", "qcow2");
        Bytes bytes = qcow2::load(path("image"));
        const std::size_t at = qcow2::extension_at(bytes, 0xe2792aca);
        put(bytes, at + 4, static_cast<std::uint32_t>(std::string_view(format).size()));
        qcow2::put_text(bytes, at + 8,
                        std::string(format) + std::string(8 - std::string_view(format).size(), '\0'));
        store("image", bytes);
        refuses(ErrorCode::unsupported, {format, "known are qcow2, raw"});
    }
}

TEST_F(ImageTest, RefusesAMissingBackingFile) {
    over("image", "gone.qcow2");
    refuses(ErrorCode::broken_chain, {"gone.qcow2", "No such file"});
    over("far", std::string(1000, 'x'));
    refuses(ErrorCode::broken_chain, {"too long"}, "far");
}

TEST_F(ImageTest, RefusesABackingFileBehindALink) {
    fs::create_directory(path("real"));
    qcow2::create(path("real/base"), "1M");
    fs::create_directory_symlink("real", path("link"));
    fs::create_symlink("real/base", path("base-link"));
    fs::create_directory_symlink("/etc", path("etc"));
    // "etc/.." is "/" for the kernel and the pool for whoever goes by the text.
    for (const char* backing : {"link/base", "base-link", "etc/passwd", "etc/../real/base"}) {
        over("image", backing);
        const bool leads_nowhere = std::string_view(backing) == "etc/../real/base";
        refuses(leads_nowhere ? ErrorCode::broken_chain : ErrorCode::unsafe_image, {backing});
        fs::remove(path("image"));
    }
    fs::create_directories(path("deep/er"));
    fs::create_directory_symlink("deep/er", path("shortcut"));
    qcow2::create(path("deep/base"), "1M");
    qcow2::create(path("base"), "1M");
    over("image", "shortcut/../base");
    refuses(ErrorCode::unsafe_image, {"symbolic link", path("deep/base")});
}

TEST_F(ImageTest, RefusesABackingNameThatIsNoText) {
    over("image", "base-name");
    Bytes bytes = qcow2::load(path("image"));
    const auto name_at = static_cast<std::size_t>(qcow2::get<std::uint64_t>(bytes, 8));
    bytes[name_at] = std::byte{0xff};
    store("image", bytes);
    refuses(ErrorCode::unsupported, {"not UTF-8", "\\xff"});
}

TEST_F(ImageTest, RefusesADataFile) {
    qcow2::create(path("image"), "1M", "data_file=" + path("data") + ",data_file_raw=on");
    refuses(ErrorCode::unsafe_image, {"data in another file", path("data")});
}

TEST_F(ImageTest, RefusesEncryption) {
    store("image", qcow2::luks_image());
    refuses(ErrorCode::unsupported, {"encrypted", "luks"});
    Bytes bytes = created("1M");
    put(bytes, crypt_at, std::uint32_t{1});
    store("image", bytes);
    refuses(ErrorCode::unsupported, {"encrypted", "aes"});
}

TEST_F(ImageTest, RefusesIncompatibleFeatures) {
    Bytes bytes = created("1M");
    put(bytes, incompatible_at, std::uint64_t{1} << 9);
    store("image", bytes);
    refuses(ErrorCode::unsupported, {"feature"});
    put(bytes, incompatible_at, std::uint64_t{1} << 1);
    store("image", bytes);
    refuses(ErrorCode::corrupt_image, {"marked corrupt", "qemu-img check"});
}

TEST_F(ImageTest, RefusesAbsurdGeometry) {
    const Bytes good = created("1M");
    const auto with = [&](std::size_t at, auto value) {
        Bytes bytes = good;
        put(bytes, at, value);
        store("image", bytes);
        const auto error = error_of([&] { (void)foreign("image"); });
        ASSERT_TRUE(error.has_value()) << at;
        EXPECT_TRUE(error->code() == ErrorCode::corrupt_image || error->code() == ErrorCode::unsupported)
            << error->what();
    };
    with(cluster_bits_at, std::uint32_t{8});
    with(cluster_bits_at, std::uint32_t{22});
    with(cluster_bits_at, std::uint32_t{0xffffffff});
    with(size_at, std::uint64_t{1} << 63);
    with(size_at, ~std::uint64_t{0});
    with(size_at, std::uint64_t{1} << 60);
    with(l1_entries_at, std::uint32_t{0xffffffff});
    with(l1_entries_at, std::uint32_t{0});
    with(l1_table_at, ~std::uint64_t{0} << 16);
    with(l1_table_at, std::uint64_t{1} << 40);
    with(l1_table_at, std::uint64_t{513});
}

TEST_F(ImageTest, RefusesWhatIsCutShort) {
    const Bytes good = created("1M");
    for (const std::size_t length : {8u, 71u, 103u, 600u}) {
        store("image", Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)));
        refuses(ErrorCode::corrupt_image, {"image"});
    }
    store("image", Bytes());
    refuses(ErrorCode::invalid_argument, {"format=raw"});
    EXPECT_EQ(foreign("image", VolumeFormat::raw).size, 0u);
}

TEST_F(ImageTest, RefusesLinksAndWhatIsNoFile) {
    const TemporaryDirectory outside;
    qcow2::create(outside / "image", "1M");
    fs::create_symlink(outside / "image", path("link"));
    fs::create_directory_symlink(outside.path(), path("directory"));
    ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
    refuses(ErrorCode::unsafe_image, {"link"}, "link");
    refuses(ErrorCode::unsafe_image, {"directory/image"}, "directory/image");
    refuses(ErrorCode::unsafe_image, {"fifo", "not a regular file"}, "fifo");
    fs::create_directory(path("plain"));
    refuses(ErrorCode::unsafe_image, {"plain", "not a regular file"}, "plain");
    refuses(ErrorCode::unsafe_image, {"../"},
            "../" + fs::path(outside.path()).filename().string() + "/image");
    refuses(ErrorCode::unsafe_image, {"/etc/passwd"}, "/etc/passwd");
    refuses(ErrorCode::not_found, {"none"}, "none");
}

// --- images of ours -------------------------------------------------------------------------------------

TEST_F(ImageTest, ShowsDamageAsAState) {
    EXPECT_EQ(word(inspect_image(pool(), "none", VolumeFormat::qcow2).state), "missing");
    EXPECT_EQ(word(inspect_image(path("none"), "none", VolumeFormat::raw).state), "missing");
    store("image", Bytes(512, std::byte{1}));
    const VolumeFacts corrupt = inspect_image(pool(), "image", VolumeFormat::qcow2);
    EXPECT_EQ(word(corrupt.state), "corrupt");
    EXPECT_NE(corrupt.problem, "");
    EXPECT_EQ(word(inspect_image(pool(), "image", VolumeFormat::raw).state), "ok");
    fs::create_symlink("image", path("link"));
    EXPECT_EQ(word(inspect_image(pool(), "link", VolumeFormat::raw).state), "corrupt");
    fs::create_directory(path("directory"));
    EXPECT_EQ(word(inspect_image(pool(), "directory", VolumeFormat::raw).state), "corrupt");
}

TEST_F(ImageTest, ShowsWhatPolicyForbidsAsItIs) {
    // It may have come to be so behind our back; it is looked at all the same.
    over("image", "nbd://host/x", "raw");
    const VolumeFacts facts = inspect_image(pool(), "image", VolumeFormat::qcow2);
    EXPECT_EQ(word(facts.state), "ok");
    EXPECT_EQ(facts.backing->name, "nbd://host/x");
    EXPECT_EQ(facts.backing->path, "");
}

}  // namespace
}  // namespace volchain::storage::image_test
