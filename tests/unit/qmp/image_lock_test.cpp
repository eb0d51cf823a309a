// SPDX-License-Identifier: MIT
#include "qmp/image_lock.h"

#include <fcntl.h>

#include <functional>

#include "qmp/node.h"
#include "support.h"

namespace volchain::qmp::image_lock_test {
namespace {

UniqueFd open_image(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) throw system_error(errno, "open " + path);
    return fd;
}

std::optional<Error> error_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        return error;
    }
    return std::nullopt;
}

Task<> add(std::shared_ptr<Session> session, std::string path, std::string format, Access access) {
    const NodeOptions plain;
    const Access file_access = access == Access::read_only ? Access::automatic : access;
    Json node = format_node("n", format, file_node("f", path, file_access, plain), access, plain);
    (void)co_await session->execute("blockdev-add", std::move(node), soon());
}

Task<> remove(std::shared_ptr<Session> session) {
    (void)co_await session->execute("blockdev-del", json(R"({"node-name": "n"})"), soon());
}

// --- while we hold it --------------------------------------------------------------------------------------

Task<> qemu_is_kept_out() {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.qcow2";
    create_image(path, "qcow2", "1M");
    const auto daemon = co_await storage_daemon(directory);
    {
        const ImageLock lock = ImageLock::take_writer(open_image(path), path);
        for (const Access access : {Access::read_write, Access::read_only}) {
            const Error error = co_await failure_of(add(daemon->session(), path, "qcow2", access));
            EXPECT_EQ(error.code(), ErrorCode::in_use) << error.what();
        }
        const Error raw = co_await failure_of(add(daemon->session(), path, "qcow2", Access::read_write));
        EXPECT_EQ(raw.code(), ErrorCode::in_use) << raw.what();
        const UniqueFd other = open_image(path);
        EXPECT_TRUE(is_in_use_for_writing(other.get()));
        EXPECT_TRUE(refuses_writer(other.get()));
        EXPECT_FALSE(is_in_use_for_writing(lock.fd())) << "one's own locks do not count";
    }
    {
        const ImageLock lock = ImageLock::take_reader(open_image(path), path);
        const Error error = co_await failure_of(add(daemon->session(), path, "qcow2", Access::read_write));
        EXPECT_EQ(error.code(), ErrorCode::in_use) << error.what();
        co_await add(daemon->session(), path, "qcow2", Access::read_only);
        co_await remove(daemon->session());
        const UniqueFd other = open_image(path);
        EXPECT_FALSE(is_in_use_for_writing(other.get()));
        EXPECT_TRUE(refuses_writer(other.get()));
    }
    co_await add(daemon->session(), path, "qcow2", Access::read_write);
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(ImageLock, KeepsQemuOut) {
    async::run(qemu_is_kept_out());
}

Task<> starting_vm_fails() {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.qcow2";
    create_image(path, "qcow2", "1M");
    const ImageLock lock = ImageLock::take_writer(open_image(path), path);
    const Words options{"-drive", "file=" + path + ",if=none,id=d,format=qcow2", "-device",
                        "virtio-blk-pci,drive=d"};
    const auto qemu = Qemu::start_bare(co_await async::asio::this_coro::executor, options);
    const async::ExitStatus status = co_await qemu->process.wait(soon());
    EXPECT_EQ(status.code, 1);
}
TEST(ImageLock, KeepsAVmFromStarting) {
    async::run(starting_vm_fails());
}

TEST(ImageLock, KeepsOthersOfUsOut) {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.raw";
    create_image(path, "raw", "1M");
    std::optional<ImageLock> lock = ImageLock::take_writer(open_image(path), path);
    const auto take_writer = [&] { (void)ImageLock::take_writer(open_image(path), path); };
    const auto take_reader = [&] { (void)ImageLock::take_reader(open_image(path), path); };
    EXPECT_EQ(error_of(take_writer).value().code(), ErrorCode::in_use);
    EXPECT_EQ(error_of(take_reader).value().code(), ErrorCode::in_use);
    // An inherited descriptor does not keep it.
    const UniqueFd inherited(::dup(lock->fd()));
    lock.reset();
    EXPECT_EQ(error_of(take_writer), std::nullopt);
    const ImageLock one = ImageLock::take_reader(open_image(path), path);
    ImageLock two = ImageLock::take_reader(open_image(path), path);
    EXPECT_EQ(error_of(take_writer).value().code(), ErrorCode::in_use);
    const ImageLock three = std::move(two);
    EXPECT_EQ(two.fd(), -1);  // NOLINT(bugprone-use-after-move): what a moved one has
    EXPECT_EQ(error_of(take_reader), std::nullopt);
}

// --- while QEMU has it -------------------------------------------------------------------------------------

Task<> held_by_qemu() {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.qcow2";
    create_image(path, "qcow2", "1M");
    const auto daemon = co_await storage_daemon(directory);
    co_await add(daemon->session(), path, "qcow2", Access::read_write);
    const Error writer = error_of([&] { (void)ImageLock::take_writer(open_image(path), path); }).value();
    EXPECT_EQ(writer.code(), ErrorCode::in_use);
    EXPECT_NE(std::string(writer.what()).find(fmt::format("process {}", daemon->pid())), std::string::npos)
        << writer.what();
    const Error reader = error_of([&] { (void)ImageLock::take_reader(open_image(path), path); }).value();
    EXPECT_EQ(reader.code(), ErrorCode::in_use);
    const UniqueFd fd = open_image(path);
    EXPECT_TRUE(is_in_use_for_writing(fd.get()));
    const auto holders = holders_of(path);
    EXPECT_EQ(holders.size(), 1u);
    for (const LockHolder& holder : holders) {
        EXPECT_EQ(holder.pid, daemon->pid());
        EXPECT_TRUE(holder.command.starts_with("qemu-storage")) << holder.command;
    }
    // Our own attempts have not left anything behind that would hinder it.
    co_await remove(daemon->session());
    EXPECT_FALSE(is_in_use_for_writing(fd.get()));
    EXPECT_TRUE(holders_of(path).empty());
    co_await add(daemon->session(), path, "qcow2", Access::read_write);
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(ImageLock, IsRefusedWhileQemuHasTheImage) {
    async::run(held_by_qemu());
}

Task<> backing_file_of_qemu() {
    const TemporaryDirectory directory;
    create_image(directory / "base.raw", "raw", "1M");
    create_image(directory / "a.qcow2", "qcow2", "1M", "base.raw", "raw");
    create_image(directory / "b.qcow2", "qcow2", "1M", "a.qcow2", "qcow2");
    const Words options{"-drive", "file=" + (directory / "b.qcow2") + ",if=none,id=d,format=qcow2", "-device",
                        "virtio-blk-pci,drive=d"};
    const auto qemu = co_await Qemu::start(directory, options);
    for (const char* name : {"base.raw", "a.qcow2"}) {
        const std::string path = directory / name;
        const UniqueFd fd = open_image(path);
        EXPECT_FALSE(is_in_use_for_writing(fd.get())) << name;
        EXPECT_TRUE(refuses_writer(fd.get())) << name;
        const auto writer = error_of([&] { (void)ImageLock::take_writer(open_image(path), path); });
        EXPECT_EQ(writer.value().code(), ErrorCode::in_use) << name;
        EXPECT_EQ(error_of([&] { (void)ImageLock::take_reader(open_image(path), path); }), std::nullopt)
            << name;
    }
    const UniqueFd leaf = open_image(directory / "b.qcow2");
    EXPECT_TRUE(is_in_use_for_writing(leaf.get()));
}
TEST(ImageLock, BackingFilesCanBeLockedForReading) {
    async::run(backing_file_of_qemu());
}

/// As the header says; if this fails, QEMU has become stricter, which is welcome.
Task<> idle_raw_node() {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.raw";
    create_image(path, "raw", "1M");
    const auto daemon = co_await storage_daemon(directory);
    co_await add(daemon->session(), path, "raw", Access::read_write);
    const UniqueFd fd = open_image(path);
    EXPECT_FALSE(is_in_use_for_writing(fd.get()));
    EXPECT_EQ(error_of([&] { (void)ImageLock::take_writer(open_image(path), path); }), std::nullopt);
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(ImageLock, ARawNodeThatNobodyUsesHoldsNothing) {
    async::run(idle_raw_node());
}

Task<> qemu_io_agrees() {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.qcow2";
    create_image(path, "qcow2", "1M");
    const ImageLock lock = ImageLock::take_writer(open_image(path), path);
    async::Command command({"/usr/bin/qemu-io", "-f", "qcow2", "-c", "write 0 64k", path});
    const async::RunResult result = co_await async::run_process(std::move(command), soon());
    EXPECT_FALSE(result.status.ok());
    EXPECT_NE(result.errors.find("Failed to get"), std::string::npos) << result.errors;
}
TEST(ImageLock, KeepsQemuIoOut) {
    async::run(qemu_io_agrees());
}

}  // namespace
}  // namespace volchain::qmp::image_lock_test
