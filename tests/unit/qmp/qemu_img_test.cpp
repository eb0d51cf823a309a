// SPDX-License-Identifier: MIT
#include "qmp/qemu_img.h"

#include <fcntl.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "qmp/image_lock.h"
#include "support.h"

namespace volchain::qmp::qemu_img_test {
namespace {

/// The L1 table of a qcow2 image loses its first entry: what it led to leaks.
void damage(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    std::array<std::byte, 8> offset{};
    (void)read_at(fd.get(), offset, 40);
    std::uint64_t table = 0;
    for (const std::byte b : offset) table = table << 8 | std::to_integer<std::uint64_t>(b);
    const std::array<std::byte, 8> zeroes{};
    write_at(fd.get(), zeroes, table);
}

Task<> checks() {
    const TemporaryDirectory directory;
    const QemuImg qemu_img;
    const std::string path = directory / "with , and \" and {.qcow2";
    create_image(path, "qcow2", "1M");
    const Json good = co_await qemu_img.check(path, "qcow2", soon());
    EXPECT_EQ(good.at("check-errors"), 0);
    EXPECT_FALSE(good.contains("leaks"));

    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "write 0 64k", path});
    damage(path);
    const Json bad = co_await qemu_img.check(path, "qcow2", soon());
    EXPECT_GT(bad.value("leaks", 0), 0) << bad.dump();
}
TEST(QemuImg, Checks) {
    async::run(checks());
}

/// A cluster at the end of the file is taken and nothing refers to it.
void leak(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    const std::uint64_t clusters = (std::filesystem::file_size(path) + 65535) / 65536;
    std::filesystem::resize_file(path, (clusters + 1) * 65536);
    const auto number_at = [&](std::uint64_t offset) {
        std::array<std::byte, 8> bytes{};
        (void)read_at(fd.get(), bytes, offset);
        std::uint64_t number = 0;
        for (const std::byte b : bytes) number = number << 8 | std::to_integer<std::uint64_t>(b);
        return number;
    };
    // Header: refcount_table_offset; its first entry is the block with the first 16-bit counts.
    const std::array<std::byte, 2> one{std::byte{0}, std::byte{1}};
    write_at(fd.get(), one, number_at(number_at(48)) + 2 * clusters);
}

Task<> leaks_are_freed() {
    const TemporaryDirectory directory;
    QemuImg qemu_img;
    const std::string path = directory / "image";
    create_image(path, "qcow2", "1M");
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", path});
    leak(path);
    qemu_img.files.emplace_back();
    qemu_img.files.back().path = path;
    const Json found = co_await qemu_img.check(path, "qcow2", soon());
    EXPECT_EQ(found.value("leaks", 0), 1) << found.dump();
    qemu_img.files.back().write = true;
    {
        const ImageLock lock =
            ImageLock::take_reader(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), path);
        const Error held = co_await failure_of(qemu_img.free_leaks(path, soon()));
        EXPECT_EQ(held.code(), ErrorCode::in_use) << held.what();
    }
    const Json freed = co_await qemu_img.free_leaks(path, soon());
    EXPECT_EQ(freed.value("leaks", 0), 0) << freed.dump();
    EXPECT_EQ(freed.value("leaks-fixed", 0), 1) << freed.dump();
    const Json clean = co_await qemu_img.check(path, "qcow2", soon());
    EXPECT_FALSE(clean.contains("leaks")) << clean.dump();
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "read -P 7 0 64k", path});
    const Json again = co_await qemu_img.free_leaks(path, soon());
    EXPECT_EQ(again.value("leaks-fixed", 0), 0) << again.dump();
}
TEST(QemuImg, FreesLeaks) {
    async::run(leaks_are_freed());
}

Task<> backing_files_are_left_alone() {
    const TemporaryDirectory directory;
    const QemuImg qemu_img;
    create_image(directory / "base", "qcow2", "1M");
    create_image(directory / "top", "qcow2", "1M", "base", "qcow2");
    std::filesystem::remove(directory / "base");
    const Json report = co_await qemu_img.check(directory / "top", "qcow2", soon());
    EXPECT_EQ(report.at("check-errors"), 0);
}
TEST(QemuImg, DoesNotOpenBackingFiles) {
    async::run(backing_files_are_left_alone());
}

Task<> refusals() {
    const TemporaryDirectory directory;
    const QemuImg qemu_img;
    const Error missing = co_await failure_of(qemu_img.check(directory / "none", "qcow2", soon()));
    EXPECT_EQ(missing.code(), ErrorCode::qemu_failed) << missing.what();
    create_image(directory / "raw", "raw", "1M");
    const Error not_qcow2 = co_await failure_of(qemu_img.check(directory / "raw", "qcow2", soon()));
    EXPECT_EQ(not_qcow2.code(), ErrorCode::qemu_failed) << not_qcow2.what();
    const Error raw = co_await failure_of(qemu_img.check(directory / "raw", "raw", soon()));
    EXPECT_EQ(raw.code(), ErrorCode::qemu_failed) << raw.what();
    create_image(directory / "held", "qcow2", "1M");
    const ImageLock lock = ImageLock::take_writer(
        UniqueFd(::open((directory / "held").c_str(), O_RDONLY | O_CLOEXEC)), directory / "held");
    const Error held = co_await failure_of(qemu_img.check(directory / "held", "qcow2", soon()));
    EXPECT_EQ(held.code(), ErrorCode::in_use) << held.what();
}
TEST(QemuImg, Refusals) {
    async::run(refusals());
}

/// A program that ends well and has something to say.
Task<> words_count() {
    const TemporaryDirectory directory;
    const std::string path = directory / "talks";
    std::ofstream(path) << "#!/bin/sh\necho '{}'\necho 'lost something' >&2\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    const QemuImg qemu_img(path);
    const Error error = co_await failure_of(qemu_img.check(directory / "x", "qcow2", soon()));
    EXPECT_NE(std::string(error.what()).find("lost something"), std::string::npos) << error.what();

    std::ofstream(path) << "#!/bin/sh\nexec sleep 60\n";
    const Error slow = co_await failure_of(qemu_img.check(directory / "x", "qcow2", after_ms(100)));
    EXPECT_EQ(slow.code(), ErrorCode::timeout) << slow.what();
}
TEST(QemuImg, AWordOnStderrCounts) {
    async::run(words_count());
}

}  // namespace
}  // namespace volchain::qmp::qemu_img_test
