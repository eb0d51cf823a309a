// SPDX-License-Identifier: MIT
//
// BackupWork: what the commands have in common that copy and compare images (backup run, verify, restore): a thread for what
// blocks, whether the user wants them to end, and how far they are, shown on stderr. One for each run of a command.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "async/deadline.h"
#include "async/workers.h"
#include "client/copy_blocks.h"
#include "client/digest_list.h"
#include "client/image_server.h"
#include "client/progress.h"
#include "client/session.h"
#include "client/stop_sign.h"

namespace volchain::client {

class BackupWork {
  public:
    /// `kind`: what the line of the progress begins with.
    BackupWork(Session& session, std::string kind);
    BackupWork(const BackupWork&) = delete;
    BackupWork& operator=(const BackupWork&) = delete;

    [[nodiscard]] Session& session() noexcept { return session_; }
    [[nodiscard]] StopSign& stop() noexcept { return stop_; }
    [[nodiscard]] CopyProgress& progress() noexcept { return progress_; }

    /// Runs something on a thread, and shows progress() meanwhile as that of `step`. `work` is named and moved in.
    template <typename Work>
    async::Task<std::invoke_result_t<Work&>> run(std::string step, Work work) {
        progress_.done = 0;
        progress_.total = 0;
        auto either = async::first_of(threads_.run(std::move(work)), show(std::move(step)));
        [[maybe_unused]] auto outcome = co_await std::move(either);
        if constexpr (!std::is_void_v<std::invoke_result_t<Work&>>) co_return *std::move(outcome);
    }
    /// The same for what takes a moment only.
    template <typename Work>
    async::Task<std::invoke_result_t<Work&>> run(Work work) {
        return threads_.run(std::move(work));
    }

    /// Waits for a job; Interrupted where the user wants the command to end.
    async::Task<bus::Dict> job(bus::ObjectPath job);
    /// The same, when nothing is to come between any more.
    async::Task<bus::Dict> job_to_its_end(bus::ObjectPath job);

    /// Runs `work` over connections to an image: the server is started, and stopped again. Where it fails because the server
    /// has ended, it says why that did.
    template <typename Work>
    async::Task<std::invoke_result_t<Work&>> run_over(std::unique_ptr<ImageServer> server, std::string step,
                                                      Work work) {
        server->close_listening();
        async::Outcome<std::invoke_result_t<Work&>> outcome;
        co_await async::keep_outcome(run(std::move(step), std::move(work)), outcome);
        if (outcome.failure) {
            co_await explain_by(*server, outcome.failure);
            std::rethrow_exception(outcome.failure);
        }
        co_await server->stop();
        if constexpr (!std::is_void_v<std::invoke_result_t<Work&>>) co_return *std::move(outcome.value);
    }

  private:
    async::Task<> show(std::string step);
    /// Throws where it knows better.
    async::Task<> explain_by(ImageServer& server, std::exception_ptr failure);

    Session& session_;
    std::string kind_;
    StopSign stop_;
    CopyProgress progress_;
    Progress line_;
    async::Workers threads_;
};

/// Throws, saying what to install, where a program is missing that images are made and read with.
void require_image_programs();

/// Sockets for connections to one export: for what is asked of it before anything is read, and for reading or writing.
struct ImageSockets {
    std::vector<UniqueFd> asking;
    std::vector<UniqueFd> copying;
};
/// So many of both from a server of our own.
[[nodiscard]] ImageSockets sockets_of(const ImageServer& server, std::size_t asking, std::size_t copying);

/// Connections for copying: as many as are of use and the server likes; the rest of the sockets is closed.
[[nodiscard]] Connections connect_for_copy(std::vector<UniqueFd> sockets, const std::string& export_name,
                                           const std::string& what);

/// Compares an image that is open alone with what it should hold: that it has these blocks and no others, and what is in them.
/// What is wrong, in words; nothing: it is as it was made. Blocks.
[[nodiscard]] std::vector<std::string> compare_image(ImageSockets sockets, const MomentDigests& expected,
                                                     bool full, CopyProgress& progress, const StopSign& stop);

/// Compares what is read with what is expected, while it is copied somewhere.
class DigestCheck : public DigestTaker {
  public:
    explicit DigestCheck(const MomentDigests& expected) : expected_(expected) {}

    void take(const Piece& piece, std::span<const Digest> digests) override;
    /// Empty: all was as expected.
    [[nodiscard]] std::string problem() const;

  private:
    const MomentDigests& expected_;
    mutable std::mutex mutex_;
    std::uint64_t bad_ = 0;
    std::uint64_t first_bad_ = 0;
};

}  // namespace volchain::client
