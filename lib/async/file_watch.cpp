// SPDX-License-Identifier: MIT
#include "async/file_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "async/deadline.h"
#include "base/unique_fd.h"

namespace volchain::async {
namespace {

int open_inotify() {
    const int fd = ::inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0) throw system_error(errno, "cannot watch a directory");
    return fd;
}

}  // namespace

FileWatch::FileWatch(const Executor& executor, const std::string& path)
    : name_(std::filesystem::path(path).filename().string()), inotify_(executor, open_inotify()) {
    const std::string directory = std::filesystem::path(path).parent_path().string();
    // Fails where the directory does not exist (yet): the deadline of wait() is the fallback.
    (void)::inotify_add_watch(inotify_.native_handle(), directory.c_str(),
                              IN_CREATE | IN_MOVED_TO | IN_DELETE);
}

Task<> FileWatch::wait(Deadline deadline) {
    bool timed_out = false;
    while (!timed_out && !drain()) {
        auto readable = inotify_.async_wait(asio::posix::stream_descriptor::wait_read, asio::use_awaitable);
        try {
            co_await with_deadline(std::move(readable), deadline, "a file");
        } catch (const Error& error) {
            if (error.code() != ErrorCode::timeout) throw;
            timed_out = true;
        }
    }
}

bool FileWatch::drain() {
    alignas(inotify_event) std::array<char, 4096> buffer{};
    bool seen = false;
    ssize_t got = 0;
    while ((got = ::read(inotify_.native_handle(), buffer.data(), buffer.size())) > 0) {
        for (std::size_t at = 0; at < static_cast<std::size_t>(got);) {
            inotify_event event{};
            std::memcpy(&event, buffer.data() + at, sizeof event);
            const char* const entry = buffer.data() + at + sizeof event;
            seen = seen || (event.mask & IN_Q_OVERFLOW) != 0 || (event.len > 0 && name_ == entry);
            at += sizeof event + event.len;
        }
    }
    return seen;
}

}  // namespace volchain::async
