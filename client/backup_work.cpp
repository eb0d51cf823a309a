// SPDX-License-Identifier: MIT
#include "client/backup_work.h"

#include <algorithm>
#include <array>

#include "client/job_wait.h"
#include "client/program_path.h"

namespace volchain::client {
namespace {

constexpr auto draw_again = std::chrono::milliseconds(200);
/// NBD protocol, base:allocation.
constexpr std::uint32_t reads_as_zeroes = 2;

std::string places(const BlockSet& blocks, const char* what) {
    return fmt::format("{} {} {}, the first at byte {}", blocks.count(),
                       blocks.count() == 1 ? "block" : "blocks", what,
                       blocks.ranges().front().first * block_bytes);
}

}  // namespace

BackupWork::BackupWork(Session& session, std::string kind)
    : session_(session),
      kind_(std::move(kind)),
      stop_(session.executor()),
      line_(session.output().quiet()),
      threads_(1) {}

async::Task<bus::Dict> BackupWork::job(bus::ObjectPath job) {
    return result_of_part(session_, std::move(job), &stop_);
}

async::Task<bus::Dict> BackupWork::job_to_its_end(bus::ObjectPath job) {
    return result_of_part(session_, std::move(job), nullptr);
}

async::Task<> BackupWork::show(std::string step) {
    // It ends with what it shows.
    while (true) {
        JobStatus status;
        status.kind = kind_;
        status.step = step;
        status.done = progress_.done;
        status.total = progress_.total;
        line_.show(status);
        co_await async::sleep_until(async::after(draw_again));
    }
}

async::Task<> BackupWork::explain_by(ImageServer& server, std::exception_ptr failure) {
    stop_.throw_if_asked();
    const Error error = to_error(failure);
    if (error.code() != ErrorCode::qemu_failed) co_return;
    const std::string words = co_await server.last_words();
    if (!words.empty())
        throw Error(error.code(), "{}: the storage daemon has ended: {}", error.what(), words);
}

void require_image_programs() {
    (void)program_path("qemu-img", qemu_img_package);
    (void)program_path("qemu-storage-daemon", storage_daemon_package);
}

// --- connections -------------------------------------------------------------------------------------------

ImageSockets sockets_of(const ImageServer& server, std::size_t asking, std::size_t copying) {
    ImageSockets sockets;
    for (std::size_t i = 0; i < asking; ++i) sockets.asking.push_back(server.connect());
    for (std::size_t i = 0; i < copying; ++i) sockets.copying.push_back(server.connect());
    return sockets;
}

Connections connect_for_copy(std::vector<UniqueFd> sockets, const std::string& export_name,
                             const std::string& what) {
    Connections connections;
    for (UniqueFd& socket : sockets) {
        if (!connections.empty() && !connections.front()->multi_conn()) break;
        connections.push_back(std::make_unique<NbdConnection>(std::move(socket), export_name, "", what));
    }
    return connections;
}

// --- comparing ---------------------------------------------------------------------------------------------

void DigestCheck::take(const Piece& piece, std::span<const Digest> digests) {
    std::vector<Digest> wanted(digests.size());
    expected_.read(piece.list, piece.slot, wanted);
    for (std::size_t i = 0; i < digests.size(); ++i) {
        if (digests[i] == wanted[i]) continue;
        const std::lock_guard lock(mutex_);
        first_bad_ = bad_ == 0 ? piece.first + i : std::min(first_bad_, piece.first + i);
        ++bad_;
    }
}

std::string DigestCheck::problem() const {
    const std::lock_guard lock(mutex_);
    if (bad_ == 0) return {};
    return fmt::format("{} {} not what was backed up, the first at byte {}", bad_,
                       bad_ == 1 ? "block is" : "blocks are", first_bad_ * block_bytes);
}

std::vector<std::string> compare_image(ImageSockets sockets, const MomentDigests& expected, bool full,
                                       CopyProgress& progress, const StopSign& stop) {
    const std::string what = "the image";
    const std::string name = ImageServer::export_name;
    NbdConnection depth(std::move(sockets.asking[0]), name, "qemu:allocation-depth", what);
    NbdConnection zeroes(std::move(sockets.asking[1]), name, "base:allocation", what);
    // A server drops a connection that does not negotiate soon.
    Connections readers = connect_for_copy(std::move(sockets.copying), name, what);
    std::vector<std::string> problems;
    if (depth.size() != expected.disk_size()) {
        problems.push_back(
            fmt::format("it is of a disk of {} bytes, not {}", depth.size(), expected.disk_size()));
        return problems;
    }
    const BlockSet allocated = depth.blocks_where([](std::uint32_t layer) { return layer != 0; }, stop);
    const BlockSet not_zero =
        zeroes.blocks_where([](std::uint32_t flags) { return (flags & reads_as_zeroes) == 0; }, stop);
    const BlockSet held = blocks_in(expected.runs());
    const BlockSet too_many = allocated.without(held);
    const BlockSet missing = held.without(allocated);
    const BlockSet lit = blocks_in(expected.runs(), BlockKind::zero).both(not_zero);
    if (!too_many.empty()) problems.push_back(places(too_many, "more than were backed up"));
    // Without anything below, zeroes need not be there.
    if (!full && !missing.empty()) problems.push_back(places(missing, "missing"));
    if (!lit.empty()) problems.push_back(places(lit, "not zero, as they were"));
    CopyPlan plan;
    plan.runs = &expected.runs();
    plan.size = expected.disk_size();
    plan.sources = &readers;
    DigestCheck check(expected);
    progress.total = bytes_to_copy(plan);
    copy_blocks(plan, check, progress, stop);
    if (const std::string problem = check.problem(); !problem.empty()) problems.push_back(problem);
    return problems;
}

}  // namespace volchain::client
