// SPDX-License-Identifier: MIT
//
// NbdClient: reads what an NBD server shows, over a connection to one of our storage daemons. Where the server knows that
// something reads as zeroes, it need not be read. Over libnbd.
//
// Blocking, for a worker thread; by one thread at a time. Nothing waits for the server for longer than `patience`: Timeout.
// Other errors are QemuFailed. After either, the client is of no more use.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

struct nbd_handle;

namespace volchain::qmp {

class NbdClient {
  public:
    /// Negotiates over a connected socket.
    NbdClient(UniqueFd socket, const std::string& export_name, std::chrono::milliseconds patience);
    NbdClient(const NbdClient&) = delete;
    NbdClient& operator=(const NbdClient&) = delete;
    /// What is being read goes to nowhere.
    ~NbdClient();

    /// Bytes of the export.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

    struct Extent {
        std::uint64_t length = 0;
        bool zero = false;  ///< reads as zeroes; else there may be anything
    };
    /// From `offset` on, one after the other, of at most `length` bytes altogether; one at least. A server that cannot tell
    /// says of everything that it may be anything.
    [[nodiscard]] std::vector<Extent> extents(std::uint64_t offset, std::uint64_t length);

    /// Reads while the caller does something else. One at a time: end_read() comes before anything else. The buffer lives
    /// until then; at most 32 MiB.
    void begin_read(std::span<std::byte> buffer, std::uint64_t offset);
    void end_read();

  private:
    struct Closer {
        void operator()(nbd_handle* handle) const noexcept;
    };

    [[noreturn]] void fail(const std::string& activity) const;
    template <typename Done>
    void wait(Done done, const std::string& activity);
    void wait_completed(std::int64_t cookie, const std::string& activity);

    std::unique_ptr<nbd_handle, Closer> handle_;
    std::chrono::milliseconds patience_;
    std::uint64_t size_ = 0;
    bool tells_zeroes_ = false;
    std::int64_t reading_ = -1;  ///< the request under way
};

}  // namespace volchain::qmp
