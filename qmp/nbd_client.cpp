// SPDX-License-Identifier: MIT
#include "qmp/nbd_client.h"

#include <libnbd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"

namespace volchain::qmp {
namespace {

/// base:allocation, NBD protocol: "if set, the block reads as all zeroes". A hole without it may hold anything.
constexpr std::uint32_t reads_as_zeroes = LIBNBD_STATE_ZERO;
/// Lengths of requests are 32 bits wide; in a round number.
constexpr std::uint64_t most_status_bytes = 1U << 30;

using Extents = std::vector<NbdClient::Extent>;

/// Takes what the server says; called from within libnbd, in C.
int take_extents(void* into, const char*, std::uint64_t, std::uint32_t* entries, std::size_t count,
                 int* error) noexcept {
    try {
        auto& extents = *static_cast<Extents*>(into);
        // Pairs of length and flags.
        for (std::size_t i = 0; i + 1 < count; i += 2)
            extents.push_back({entries[i], (entries[i + 1] & reads_as_zeroes) != 0});
        return 0;
    } catch (const std::exception&) {
        *error = ENOMEM;
        return -1;
    }
}

}  // namespace

void NbdClient::Closer::operator()(nbd_handle* handle) const noexcept {
    ::nbd_close(handle);
}

NbdClient::NbdClient(UniqueFd socket, const std::string& export_name, std::chrono::milliseconds patience)
    : handle_(::nbd_create()), patience_(patience) {
    const std::string activity = "negotiating with the NBD server";
    if (handle_ == nullptr || ::nbd_set_export_name(handle_.get(), export_name.c_str()) < 0 ||
        ::nbd_add_meta_context(handle_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        ::nbd_aio_connect_socket(handle_.get(), socket.get()) < 0)
        fail(activity);
    (void)socket.release();  // libnbd closes it
    wait([this] { return ::nbd_aio_is_connecting(handle_.get()) == 0; }, activity);
    if (::nbd_aio_is_ready(handle_.get()) != 1) fail(activity);
    const std::int64_t size = ::nbd_get_size(handle_.get());
    if (size < 0) fail(activity);
    size_ = static_cast<std::uint64_t>(size);
    tells_zeroes_ = ::nbd_can_meta_context(handle_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
}

NbdClient::~NbdClient() = default;

Extents NbdClient::extents(std::uint64_t offset, std::uint64_t length) {
    length = std::min(length, most_status_bytes);
    Extents found;
    if (!tells_zeroes_) {
        found.push_back({length, false});
        return found;
    }
    const std::string activity = "asking the NBD server what is zero";
    nbd_extent_callback take{};
    take.callback = take_extents;
    take.user_data = &found;
    const std::int64_t cookie = ::nbd_aio_block_status(handle_.get(), length, offset, take, {}, 0);
    if (cookie < 0) fail(activity);
    wait_completed(cookie, activity);
    // A server may say less than it was asked for, or, of the last extent, more.
    std::uint64_t rest = length;
    for (Extent& extent : found) {
        extent.length = std::min(extent.length, rest);
        rest -= extent.length;
    }
    std::erase_if(found, [](const Extent& extent) { return extent.length == 0; });
    if (found.empty())
        throw Error(ErrorCode::qemu_failed, "the NBD server does not say what is at {}", offset);
    return found;
}

void NbdClient::begin_read(std::span<std::byte> buffer, std::uint64_t offset) {
    reading_ = ::nbd_aio_pread(handle_.get(), buffer.data(), buffer.size(), offset, {}, 0);
    if (reading_ < 0) fail("reading from the NBD server");
}

void NbdClient::end_read() {
    wait_completed(reading_, "reading from the NBD server");
}

void NbdClient::fail(const std::string& activity) const {
    const char* const words = ::nbd_get_error();
    throw Error(ErrorCode::qemu_failed, "{}: {}", activity, words == nullptr ? "no reason given" : words);
}

template <typename Done>
void NbdClient::wait(Done done, const std::string& activity) {
    const auto end = std::chrono::steady_clock::now() + patience_;
    while (!done()) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
        if (left.count() <= 0)
            throw Error(ErrorCode::timeout, "timed out {} for {} ms", activity, patience_.count());
        if (::nbd_poll(handle_.get(), static_cast<int>(left.count())) < 0) fail(activity);
    }
}

void NbdClient::wait_completed(std::int64_t cookie, const std::string& activity) {
    int state = 0;
    wait(
        [&] {
            state = ::nbd_aio_command_completed(handle_.get(), static_cast<std::uint64_t>(cookie));
            return state != 0;
        },
        activity);
    if (state < 0) fail(activity);
}

}  // namespace volchain::qmp
