// SPDX-License-Identifier: MIT
#include "client/copy_blocks.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"

namespace volchain::client {
namespace {

constexpr std::uint64_t data_blocks_at_once = 16;  // 1 MiB
/// NBD has 32 bits for a length.
constexpr std::uint64_t zero_blocks_in_one_request = (std::uint64_t{512} << 20) / block_bytes;
constexpr std::size_t requests_at_once = 8;  // of each thread
constexpr std::size_t most_connections = 4;

/// What the threads of one copy share: what is to be read next, and the first failure.
class SharedCopy {
  public:
    explicit SharedCopy(const CopyPlan& plan)
        : plan_(plan), given_up_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (!given_up_) throw system_error(errno, "cannot make an event");
    }

    [[nodiscard]] std::optional<Piece> next() {
        const std::lock_guard lock(mutex_);
        while (failure_ == nullptr && run_ < plan_.runs->size()) {
            const BlockRun& run = (*plan_.runs)[run_];
            const bool skipped = run.kind == BlockKind::zero && !plan_.write_zeroes;
            if (skipped || inside_ == run.count) {
                ++run_;
                inside_ = 0;
                continue;
            }
            const std::uint64_t most =
                run.kind == BlockKind::data ? data_blocks_at_once : zero_blocks_in_one_request;
            const Piece piece{run.first + inside_, std::min(most, run.count - inside_), run.kind,
                              run.slot + inside_, run.list};
            inside_ += piece.count;
            return piece;
        }
        return std::nullopt;
    }

    void fail(std::exception_ptr failure) noexcept {
        const std::lock_guard lock(mutex_);
        if (failure_ == nullptr) failure_ = std::move(failure);
        const std::uint64_t one = 1;
        (void)!::write(given_up_.get(), &one, sizeof one);
    }

    [[nodiscard]] int given_up() const noexcept { return given_up_.get(); }
    [[nodiscard]] bool failed() {
        const std::lock_guard lock(mutex_);
        return failure_ != nullptr;
    }
    /// When all threads have ended.
    void rethrow() const {
        if (failure_) std::rethrow_exception(failure_);
    }

  private:
    const CopyPlan& plan_;
    UniqueFd given_up_;
    std::mutex mutex_;
    std::size_t run_ = 0;
    std::uint64_t inside_ = 0;
    std::exception_ptr failure_;
};

/// What one thread does.
class CopyWorker {
  public:
    CopyWorker(const CopyPlan& plan, SharedCopy& shared, std::size_t number, DigestTaker& taker,
               CopyProgress& progress, const StopSign& stop)
        : plan_(plan),
          shared_(shared),
          source_(*(*plan.sources)[number]),
          target_(plan.targets == nullptr ? nullptr : (*plan.targets)[number].get()),
          taker_(taker),
          progress_(progress),
          stop_(stop) {}

    void run() {
        while (true) {
            stop_.throw_if_asked();
            if (shared_.failed()) return;
            begin_more();
            if (busy_ == 0) return;
            // What has ended makes room for more.
            if (!settle()) wait();
        }
    }

  private:
    struct Slot {
        Piece piece;
        bool busy = false;
        std::optional<std::int64_t> reading;
        std::vector<std::int64_t> writing;
        std::vector<std::byte> buffer;
    };

    void begin_more() {
        for (Slot& slot : slots_) {
            if (slot.busy) continue;
            const auto piece = shared_.next();
            if (!piece) return;
            slot.piece = *piece;
            slot.busy = true;
            ++busy_;
            if (piece->kind == BlockKind::data) {
                // Most increments are small: memory is taken when there is something to read.
                slot.buffer.resize(data_blocks_at_once * block_bytes);
                slot.reading = source_.begin_read(data_of(slot), piece->first * block_bytes);
            } else {
                slot.writing.push_back(target_->begin_zero(bytes_of(piece->first, piece->count, plan_.size),
                                                           piece->first * block_bytes));
            }
        }
    }

    [[nodiscard]] std::span<std::byte> data_of(Slot& slot) const {
        const std::uint64_t length = bytes_of(slot.piece.first, slot.piece.count, plan_.size);
        return std::span(slot.buffer).first(static_cast<std::size_t>(length));
    }

    /// Whether anything has ended.
    bool settle() {
        bool any = false;
        for (Slot& slot : slots_) {
            if (slot.reading && source_.done(*slot.reading)) {
                slot.reading.reset();
                digest_and_write(slot);
                any = true;
            }
            std::erase_if(slot.writing, [this](std::int64_t request) { return target_->done(request); });
            if (!slot.busy || slot.reading || !slot.writing.empty()) continue;
            slot.busy = false;
            --busy_;
            progress_.done += bytes_of(slot.piece.first, slot.piece.count, plan_.size);
            any = true;
        }
        return any;
    }

    void digest_and_write(Slot& slot) {
        std::array<Digest, data_blocks_at_once> digests;
        std::array<bool, data_blocks_at_once> zero{};
        const auto data = std::span<const std::byte>(data_of(slot));
        std::size_t count = 0;
        for (std::size_t at = 0; at < data.size(); at += block_bytes, ++count) {
            const auto block = data.subspan(at, std::min<std::size_t>(block_bytes, data.size() - at));
            digests[count] = hash_.of(block);
            zero[count] = all_zero(block);
        }
        taker_.take(slot.piece, std::span(digests).first(count));
        if (target_ == nullptr) return;
        for (std::size_t first = 0; first < count;) {
            std::size_t end = first + 1;
            while (end < count && zero[end] == zero[first]) ++end;
            write_part(slot, first, end, zero[first]);
            first = end;
        }
    }

    /// Blocks of a piece that are all zeroes, or all not.
    void write_part(Slot& slot, std::size_t first, std::size_t end, bool zero) {
        const auto data = std::span<const std::byte>(data_of(slot));
        const std::size_t begin = first * block_bytes;
        const auto part = data.subspan(begin, std::min(end * block_bytes, data.size()) - begin);
        const std::uint64_t offset = slot.piece.first * block_bytes + begin;
        if (!zero)
            slot.writing.push_back(target_->begin_write(part, offset));
        else if (plan_.write_zeroes)
            slot.writing.push_back(target_->begin_zero(part.size(), offset));
    }

    void wait() {
        std::array<pollfd, 4> fds{pollfd{stop_.fd(), POLLIN, 0}, pollfd{shared_.given_up(), POLLIN, 0},
                                  source_.waits_for(), pollfd{-1, 0, 0}};
        if (target_ != nullptr) fds[3] = target_->waits_for();
        const int ready = ::poll(fds.data(), fds.size(), NbdConnection::patience_ms);
        if (ready < 0 && errno != EINTR) throw system_error(errno, "cannot wait for an NBD server");
        if (ready == 0)
            throw Error(ErrorCode::timeout, "nothing was copied for {} s", NbdConnection::patience_ms / 1000);
        if (ready < 0) return;
        if (fds[2].revents != 0) source_.go_on(fds[2]);
        if (fds[3].revents != 0) target_->go_on(fds[3]);
    }

    const CopyPlan& plan_;
    SharedCopy& shared_;
    NbdConnection& source_;
    NbdConnection* target_;
    DigestTaker& taker_;
    CopyProgress& progress_;
    const StopSign& stop_;
    BlockHash hash_;
    std::array<Slot, requests_at_once> slots_;
    std::size_t busy_ = 0;
};

void work(const CopyPlan& plan, SharedCopy& shared, std::size_t number, DigestTaker& taker,
          CopyProgress& progress, const StopSign& stop) noexcept {
    try {
        CopyWorker worker(plan, shared, number, taker, progress, stop);
        worker.run();
    } catch (...) {
        shared.fail(std::current_exception());
    }
}

}  // namespace

std::size_t useful_connections() {
    return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, most_connections);
}

std::uint64_t bytes_to_copy(const CopyPlan& plan) {
    std::uint64_t sum = 0;
    for (const BlockRun& run : *plan.runs)
        if (run.kind == BlockKind::data || plan.write_zeroes)
            sum += bytes_of(run.first, run.count, plan.size);
    return sum;
}

void copy_blocks(const CopyPlan& plan, DigestTaker& taker, CopyProgress& progress, const StopSign& stop) {
    SharedCopy shared(plan);
    std::vector<std::thread> threads;
    const std::size_t count = plan.sources->size();
    try {
        for (std::size_t number = 1; number < count; ++number)
            threads.emplace_back([&, number] { work(plan, shared, number, taker, progress, stop); });
    } catch (...) {
        shared.fail(std::current_exception());
    }
    work(plan, shared, 0, taker, progress, stop);
    for (std::thread& thread : threads) thread.join();
    shared.rethrow();
}

}  // namespace volchain::client
