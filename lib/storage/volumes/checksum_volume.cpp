// SPDX-License-Identifier: MIT
#include "storage/volumes/checksum_volume.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "base/text.h"
#include "qmp/nbd_client.h"
#include "qmp/unix_socket.h"
#include "storage/jobs/presence.h"
#include "storage/qemu/helper.h"
#include "storage/qemu/open_chain.h"
#include "storage/qemu/workplace.h"

namespace volchain::storage {
namespace {

constexpr const char* checksum_export = "content";
/// For one answer of the storage daemon, which waits for its disk.
constexpr auto read_limit = std::chrono::minutes(2);
/// How long a slice takes: a cancel waits for its end.
constexpr auto reading_slice = std::chrono::milliseconds(300);
/// Read at a time; whole blocks.
constexpr std::uint64_t chunk_bytes = 32 * BlockDigest::block_bytes;

/// Of the job's own, for a moment.
std::string socket_path(const Engine& engine, const Uuid& job) {
    return fmt::format("{}/nbd-{}.sock", engine.runtime_directory(), job.str().substr(0, 8));
}

/// The file of a listening socket, there until somebody has connected to it.
class SocketFile {
  public:
    explicit SocketFile(std::string path)
        : path_(std::move(path)), listening_(qmp::listen_unix(path_, 0600)) {}
    SocketFile(const SocketFile&) = delete;
    SocketFile& operator=(const SocketFile&) = delete;
    ~SocketFile() { (void)::unlink(path_.c_str()); }

    [[nodiscard]] int listening() const noexcept { return listening_.get(); }
    [[nodiscard]] UniqueFd connect() const { return qmp::connect_unix(path_); }

  private:
    std::string path_;
    UniqueFd listening_;
};

// --- reading -----------------------------------------------------------------------------------------------

/// Reads an export front to back and makes the checksum of it. Blocking: on a worker thread, slice by slice. While one
/// chunk is read, the one before it goes into the checksum.
class ContentReader {
  public:
    ContentReader(UniqueFd socket, ChecksumAlgorithm algorithm)
        : socket_(std::move(socket)), digest_(algorithm) {}

    /// Reads on, at most so many bytes. Whether this was the last slice.
    bool run_slice(std::uint64_t most_bytes) {
        if (!client_) client_.emplace(std::move(socket_), checksum_export, read_limit);
        const async::Deadline deadline = async::after(reading_slice);
        const std::uint64_t end = data_bytes_ + most_bytes;
        Chunk now = begin_chunk(buffers_[0]);
        std::size_t other = 1;
        while (now.zeroes != 0 || now.length != 0) {
            if (now.length != 0) client_->end_read();
            Chunk next;
            if (data_bytes_ < end && async::Clock::now() < deadline) next = begin_chunk(buffers_[other]);
            digest_.add_zeroes(now.zeroes);
            digest_.add(std::span<const std::byte>(buffers_[1 - other]).first(now.length));
            now = next;
            other = 1 - other;
        }
        return offset_ == client_->size();
    }

    [[nodiscard]] std::uint64_t size() const { return client_->size(); }
    [[nodiscard]] std::uint64_t data_bytes() const noexcept { return data_bytes_; }
    [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
    [[nodiscard]] std::string finish() { return digest_.finish(); }

  private:
    using Buffer = std::vector<std::byte>;
    /// Zeroes, then something that has to be read; none of both at the end.
    struct Chunk {
        std::uint64_t zeroes = 0;
        std::size_t length = 0;
    };

    Chunk begin_chunk(Buffer& buffer) {
        Chunk chunk;
        chunk.zeroes = zeroes_at(offset_);
        offset_ += chunk.zeroes;
        const std::uint64_t rest = client_->size() - offset_;
        if (rest == 0 || chunk.zeroes >= most_zeroes) return chunk;
        chunk.length = static_cast<std::size_t>(std::min({rest, chunk_bytes, data_at(offset_)}));
        client_->begin_read(std::span(buffer).first(chunk.length), offset_);
        offset_ += chunk.length;
        data_bytes_ += chunk.length;
        return chunk;
    }

    /// How many bytes from there on, in whole blocks, are known to be zeroes.
    std::uint64_t zeroes_at(std::uint64_t offset) {
        std::uint64_t end = offset;
        while (end < client_->size() && end - offset < most_zeroes) {
            const auto extent = extent_at(end);
            if (!extent.zero) break;
            end += extent.length;
        }
        return end == client_->size() ? end - offset : (end - offset) / block * block;
    }

    /// How many bytes from there on, in whole blocks, have something that may not be zero; at least one block.
    std::uint64_t data_at(std::uint64_t offset) {
        std::uint64_t end = offset + block;
        while (end < client_->size() && end - offset < chunk_bytes) {
            const auto extent = extent_at(end);
            if (extent.zero && extent.length >= block) break;
            end = (end + extent.length + block - 1) / block * block;
        }
        return end - offset;
    }

    /// What the server says of that place and what follows it.
    qmp::NbdClient::Extent extent_at(std::uint64_t offset) {
        std::uint64_t begin = known_from_;
        for (const qmp::NbdClient::Extent& extent : known_) {
            if (offset >= begin && offset < begin + extent.length)
                return {begin + extent.length - offset, extent.zero};
            begin += extent.length;
        }
        known_ = client_->extents(offset, client_->size() - offset);
        known_from_ = offset;
        return known_.front();
    }

    static constexpr std::uint64_t block = BlockDigest::block_bytes;
    /// In one chunk: the digests of so many zero blocks take some milliseconds.
    static constexpr std::uint64_t most_zeroes = std::uint64_t{8} << 30;

    std::array<Buffer, 2> buffers_{Buffer(chunk_bytes), Buffer(chunk_bytes)};
    UniqueFd socket_;
    std::optional<qmp::NbdClient> client_;
    BlockDigest digest_;
    std::vector<qmp::NbdClient::Extent> known_;
    std::uint64_t known_from_ = 0;
    std::uint64_t offset_ = 0;
    std::uint64_t data_bytes_ = 0;
};

// --- the operation -----------------------------------------------------------------------------------------

class ChecksumVolume {
  public:
    ChecksumVolume(Engine& engine, JobPtr job, std::vector<Uuid> chain, ChecksumAlgorithm algorithm,
                   Holds::Hold hold)
        : engine_(engine),
          job_(std::move(job)),
          chain_(std::move(chain)),
          algorithm_(algorithm),
          hold_(std::move(hold)) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(read_all(), failure);
        if (failure) co_await async::ignore_cancellation();
        std::exception_ptr not_closed;
        if (place_) co_await async::keep_failure(place_->close(), not_closed);
        if (failure) std::rethrow_exception(failure);
        hold_.release();
        co_await job_->succeed(Changes(), std::move(result_));
    }

  private:
    async::Task<> read_all() {
        co_await job_->step("open");
        co_await job_->or_cancel(open());
        co_await job_->step("read");
        bool last = false;
        while (!last) {
            const async::Deadline begun = async::Clock::now();
            const std::uint64_t before = reader_->data_bytes();
            last = co_await job_->or_cancel(run_slice());
            job_->progress(reader_->offset(), reader_->size());
            co_await keep_pace(begun, reader_->data_bytes() - before);
        }
        result_["algorithm"] = word(algorithm_);
        result_["checksum"] = reader_->finish();
        result_["bytes"] = reader_->size();
        result_["data-bytes"] = reader_->data_bytes();
        reader_.reset();  // the connection ends before the storage daemon
    }

    [[nodiscard]] Uuid pool() const { return engine_.catalog().volume(chain_.front()).pool; }

    /// The chain in a storage daemon, and a connection to it that nobody else can have.
    async::Task<> open() {
        const Catalog& catalog = engine_.catalog();
        std::vector<ImageAccess> images;
        for (const Uuid& volume : chain_) images.emplace_back(catalog.path(catalog.volume(volume)), false);
        const SocketFile socket(socket_path(engine_, job_->id()));
        auto helper = co_await start_nbd_daemon(engine_, std::move(images), socket.listening());
        const std::set<Uuid> nothing;
        place_ = co_await Workplace::open_in(engine_, std::move(helper), chain_, nothing);
        Json request;
        request["type"] = "nbd";
        request["id"] = checksum_export;
        request["name"] = checksum_export;
        request["node-name"] = place_->root();
        const async::Deadline soon = async::after(engine_.settings().command_timeout);
        (void)co_await place_->session()->execute("block-export-add", std::move(request), soon);
        reader_ = std::make_shared<ContentReader>(socket.connect(), algorithm_);
    }

    async::Task<bool> run_slice() {
        // With a limit, in steps that are small enough for it.
        const std::uint64_t speed = job_->speed();
        const std::uint64_t most = speed == 0 ? UINT64_MAX / 2 : std::max<std::uint64_t>(speed / 4, 1);
        auto work = [reader = reader_, most] { return reader->run_slice(most); };
        co_return co_await engine_.readers(pool()).run(std::move(work));
    }

    /// Waits where so many bytes since then are more than the user wants.
    async::Task<> keep_pace(async::Deadline begun, std::uint64_t bytes) {
        while (job_->speed() != 0) {
            const std::chrono::duration<double> wanted(static_cast<double>(bytes) /
                                                       static_cast<double>(job_->speed()));
            const async::Deadline due = begun + std::chrono::duration_cast<async::Clock::duration>(wanted);
            if (async::Clock::now() >= due) co_return;
            std::exception_ptr failure;
            co_await async::keep_failure(job_->asked(due), failure);
            if (failure && to_error(failure).code() != ErrorCode::timeout) std::rethrow_exception(failure);
            job_->throw_if_cancelled();
        }
    }

    Engine& engine_;
    JobPtr job_;
    std::vector<Uuid> chain_;
    ChecksumAlgorithm algorithm_;
    std::shared_ptr<Workplace> place_;
    std::shared_ptr<ContentReader> reader_;
    Json result_ = Json::object();
    Holds::Hold hold_;  ///< on the chain
};

async::Task<> run_checksum(Engine& engine, JobPtr job, std::vector<Uuid> chain, ChecksumRequest request,
                           Holds::Hold hold) {
    job->start_speed(request.speed);
    ChecksumVolume operation(engine, std::move(job), std::move(chain), request.algorithm, std::move(hold));
    co_await operation.run();
}

// --- what is asked for -------------------------------------------------------------------------------------

/// The disk that the volume is the active one of; nil where it is none's.
Uuid disk_written(const Catalog& catalog, const Uuid& volume) {
    const Uuid disk = catalog.volume(volume).disk;
    return catalog.disk(disk).active == volume ? disk : Uuid{};
}

async::Task<> refuse_running(Engine& engine, Uuid volume) {
    const Catalog& catalog = engine.catalog();
    const Uuid disk = disk_written(catalog, volume);
    const Uuid vm = disk ? catalog.disk(disk).vm : Uuid{};
    if (vm.nil()) co_return;
    co_await engine.vm(vm).look_now(async::after(engine.settings().greeting_timeout * 2));
    if (engine.vm(vm).live())
        throw Error(
            ErrorCode::running,
            "{} is written to by {}, which is running; take a snapshot, and its content stays as it is then",
            catalog.describe({ObjectKind::volume, volume}), catalog.describe({ObjectKind::vm, vm}));
    if (!engine.vm(vm).down()) (void)engine.vm(vm).session();  // throws Unreachable, and why
}

}  // namespace

async::Task<Uuid> checksum_volume(Engine& engine, Uuid volume, ChecksumRequest request) {
    const Catalog& catalog = engine.catalog();
    co_await refuse_running(engine, volume);
    co_await engine.inspect_volumes(catalog.chain(volume));
    std::vector<Uuid> chain = ChainFiles(catalog, volume).volumes;
    JobRequest job("checksum-volume", {ObjectKind::volume, volume}, request.owner_uid);
    // A disk that nobody runs may be written to by an operation.
    const Uuid disk = disk_written(catalog, volume);
    if (disk) job.locks = disk_and_vm(disk, catalog.disk(disk).vm);
    auto hold = std::make_shared<Holds::Hold>(engine.holds().take(
        chain, fmt::format("a checksum of {}", catalog.describe({ObjectKind::volume, volume}))));
    Operation operation = [&engine, chain = std::move(chain), request, hold](JobPtr started) {
        return run_checksum(engine, std::move(started), chain, request, std::move(*hold));
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_checksum_volume(Engine& engine, JobPtr job) {
    (void)::unlink(socket_path(engine, job->id()).c_str());
    co_await job->fail(Changes(),
                       Error(ErrorCode::interrupted, "the daemon ended in the middle; begin it anew"));
}

std::vector<ObjectId> locks_of_checksum_volume(const JobRecord&) {
    return {};
}

}  // namespace volchain::storage
