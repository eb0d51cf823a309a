// SPDX-License-Identifier: MIT
#include "client/nbd_connection.h"

#include <libnbd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include "base/error.h"

namespace volchain::client {
namespace {

/// Lengths of requests are 32 bits wide; in a round number.
constexpr std::chrono::hours flush_limit{12};
constexpr std::uint64_t most_status_bytes = std::uint64_t{1} << 30;

struct StatusAnswer {
    const std::string* context;
    std::vector<std::pair<std::uint64_t, std::uint32_t>> extents;  // length, flags
};

/// Called from within libnbd, in C.
int take_status(void* into, const char* context, std::uint64_t, std::uint32_t* entries, std::size_t count,
                int* error) noexcept {
    try {
        auto& answer = *static_cast<StatusAnswer*>(into);
        if (*answer.context != context) return 0;
        // Pairs of length and flags.
        for (std::size_t i = 0; i + 1 < count; i += 2)
            answer.extents.emplace_back(entries[i], entries[i + 1]);
        return 0;
    } catch (const std::exception&) {
        *error = ENOMEM;
        return -1;
    }
}

}  // namespace

void NbdConnection::Closer::operator()(nbd_handle* handle) const noexcept {
    ::nbd_close(handle);
}

NbdConnection::NbdConnection(UniqueFd socket, const std::string& export_name, const std::string& context,
                             std::string what)
    : handle_(::nbd_create()), what_(std::move(what)), context_(context) {
    if (handle_ == nullptr || ::nbd_set_export_name(handle_.get(), export_name.c_str()) < 0) fail();
    if (!context.empty() && ::nbd_add_meta_context(handle_.get(), context.c_str()) < 0) fail();
    if (::nbd_aio_connect_socket(handle_.get(), socket.get()) < 0) fail();
    (void)socket.release();  // libnbd closes it
    wait([this] { return ::nbd_aio_is_connecting(handle_.get()) == 0; });
    if (::nbd_aio_is_ready(handle_.get()) != 1) fail();
    const std::int64_t size = ::nbd_get_size(handle_.get());
    if (size < 0) fail();
    size_ = static_cast<std::uint64_t>(size);
    multi_conn_ = ::nbd_can_multi_conn(handle_.get()) == 1;
    if (!context.empty() && ::nbd_can_meta_context(handle_.get(), context.c_str()) != 1)
        throw Error(ErrorCode::qemu_failed, "{}: the server does not tell {}", what_, context);
}

NbdConnection::~NbdConnection() = default;

BlockSet NbdConnection::blocks_where(const std::function<bool(std::uint32_t)>& wanted, const StopSign& stop) {
    BlockSet blocks;
    for (std::uint64_t offset = 0; offset < size_;) {
        stop.throw_if_asked();
        StatusAnswer answer{&context_, {}};
        nbd_extent_callback take{};
        take.callback = take_status;
        take.user_data = &answer;
        const std::uint64_t length = std::min(size_ - offset, most_status_bytes);
        const std::int64_t request = ::nbd_aio_block_status(handle_.get(), length, offset, take, {}, 0);
        if (request < 0) fail();
        wait_done(request);
        const std::uint64_t begin = offset;
        // A server may say less than it was asked for, or, of the last extent, more.
        for (const auto& [bytes, flags] : answer.extents) {
            const std::uint64_t known = std::min(bytes, size_ - offset);
            if (wanted(flags)) blocks.add_bytes(offset, known);
            offset += known;
        }
        if (offset == begin)
            throw Error(ErrorCode::qemu_failed, "{}: the server does not say what is at {}", what_, offset);
    }
    return blocks;
}

std::int64_t NbdConnection::begin_read(std::span<std::byte> buffer, std::uint64_t offset) {
    const std::int64_t request = ::nbd_aio_pread(handle_.get(), buffer.data(), buffer.size(), offset, {}, 0);
    if (request < 0) fail();
    return request;
}

std::int64_t NbdConnection::begin_write(std::span<const std::byte> data, std::uint64_t offset) {
    const std::int64_t request = ::nbd_aio_pwrite(handle_.get(), data.data(), data.size(), offset, {}, 0);
    if (request < 0) fail();
    return request;
}

std::int64_t NbdConnection::begin_zero(std::uint64_t length, std::uint64_t offset) {
    const std::int64_t request = ::nbd_aio_zero(handle_.get(), length, offset, {}, 0);
    if (request < 0) fail();
    return request;
}

bool NbdConnection::done(std::int64_t request) {
    const int state = ::nbd_aio_command_completed(handle_.get(), static_cast<std::uint64_t>(request));
    if (state < 0) fail();
    return state != 0;
}

pollfd NbdConnection::waits_for() const {
    const unsigned direction = ::nbd_aio_get_direction(handle_.get());
    int events = 0;
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) events |= POLLIN;
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) events |= POLLOUT;
    return {::nbd_aio_get_fd(handle_.get()), static_cast<short>(events), 0};
}

void NbdConnection::go_on(const pollfd& ready) {
    // What poll() finds of a connection that has ended is for the reader to find.
    const bool readable = (ready.revents & (POLLIN | POLLHUP | POLLERR)) != 0;
    const unsigned direction = ::nbd_aio_get_direction(handle_.get());
    int result = 0;
    if (readable && (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
        result = ::nbd_aio_notify_read(handle_.get());
    else if ((ready.revents & (POLLOUT | POLLHUP | POLLERR)) != 0 &&
             (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
        result = ::nbd_aio_notify_write(handle_.get());
    if (result < 0) fail();
}

void NbdConnection::flush(const StopSign& stop) {
    if (::nbd_can_flush(handle_.get()) != 1) return;
    const std::int64_t request = ::nbd_aio_flush(handle_.get(), {}, 0);
    if (request < 0) fail();
    const auto end = std::chrono::steady_clock::now() + flush_limit;
    while (!done(request)) {
        stop.throw_if_asked();
        if (std::chrono::steady_clock::now() >= end)
            throw Error(ErrorCode::timeout, "{}: what was written is not durable after {} hours", what_,
                        flush_limit.count());
        std::array<pollfd, 2> waits{waits_for(), pollfd{stop.fd(), POLLIN, 0}};
        if (::poll(waits.data(), waits.size(), patience_ms) < 0 && errno != EINTR)
            throw system_error(errno, "cannot wait for the server");
        go_on(waits[0]);
    }
}

void NbdConnection::fail() const {
    const char* const words = ::nbd_get_error();
    const int number = ::nbd_get_errno();
    throw Error(number == ENOSPC ? ErrorCode::no_space : ErrorCode::qemu_failed, "{}: {}", what_,
                words == nullptr ? "no reason given" : words);
}

template <typename Done>
void NbdConnection::wait(Done done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(patience_ms);
    while (!done()) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            throw Error(ErrorCode::timeout, "{}: the server has not answered for {} s", what_,
                        patience_ms / 1000);
        if (::nbd_poll(handle_.get(), static_cast<int>(left.count())) < 0) fail();
    }
}

void NbdConnection::wait_done(std::int64_t request) {
    wait([this, request] { return done(request); });
}

}  // namespace volchain::client
