// SPDX-License-Identifier: MIT
//
// NbdConnection: one connection to an NBD server, over libnbd: what is where, and requests of which many are under way at
// once. Blocking, by one thread at a time. Nobody waits for a server for longer than a limit: Timeout. What the server
// refuses for lack of room is NoSpace, everything else QemuFailed; the messages begin with what the connection is to.
#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "client/block_runs.h"
#include "client/stop_sign.h"

struct nbd_handle;

namespace volchain::client {

class NbdConnection {
  public:
    /// How long a server may take for anything.
    static constexpr int patience_ms = 120'000;

    /// Negotiates over a connected socket. `context`: the one that is to be asked for; empty: none. `what`: for messages.
    NbdConnection(UniqueFd socket, const std::string& export_name, const std::string& context,
                  std::string what);
    NbdConnection(const NbdConnection&) = delete;
    NbdConnection& operator=(const NbdConnection&) = delete;
    /// The server sees it go; what is under way is lost.
    ~NbdConnection();

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    /// Whether several connections may read and write side by side, as if they were one.
    [[nodiscard]] bool multi_conn() const noexcept { return multi_conn_; }

    /// The blocks that have a part of which the context's flags are wanted. `stop` ends it in the middle.
    [[nodiscard]] BlockSet blocks_where(const std::function<bool(std::uint32_t)>& wanted,
                                        const StopSign& stop);

    // --- many at once: what has begun, done() tells of; buffers live until then ---
    [[nodiscard]] std::int64_t begin_read(std::span<std::byte> buffer, std::uint64_t offset);
    [[nodiscard]] std::int64_t begin_write(std::span<const std::byte> data, std::uint64_t offset);
    /// Zeroes that need not be stored, and read as zeroes whatever is below.
    [[nodiscard]] std::int64_t begin_zero(std::uint64_t length, std::uint64_t offset);
    /// Once for each; true at its end. Throws where it failed.
    [[nodiscard]] bool done(std::int64_t request);

    /// What it waits for, for poll(2); and what to do when that has come.
    [[nodiscard]] pollfd waits_for() const;
    void go_on(const pollfd& ready);

    /// What was written is durable when it returns: that may be all that the host's memory has held back, and takes as long as
    /// the medium does. `stop` ends the wait.
    void flush(const StopSign& stop);

  private:
    struct Closer {
        void operator()(nbd_handle* handle) const noexcept;
    };

    [[noreturn]] void fail() const;
    template <typename Done>
    void wait(Done done);
    void wait_done(std::int64_t request);

    std::unique_ptr<nbd_handle, Closer> handle_;
    std::string what_;
    std::string context_;
    std::uint64_t size_ = 0;
    bool multi_conn_ = false;
};

}  // namespace volchain::client
