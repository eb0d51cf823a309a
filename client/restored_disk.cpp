// SPDX-License-Identifier: MIT
#include "client/restored_disk.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/text.h"
#include "client/patient_calls.h"

namespace volchain::client {
namespace {

/// NBD protocol, base:allocation.
constexpr std::uint32_t zeroes_there = 2;

/// Where there is no catalogue: the digests of what was read, in memory that has no name.
class FoundDigests : public DigestTaker {
  public:
    FoundDigests(std::uint64_t size, const BlockRuns& runs)
        : memory_(::memfd_create("digests", MFD_CLOEXEC)),
          list_(copy_of(memory_), "what was read", size, runs) {}

    void take(const Piece& piece, std::span<const Digest> digests) override {
        list_.put(piece.slot, digests);
    }

    [[nodiscard]] std::string checksum() {
        std::vector<std::shared_ptr<const DigestList>> lists{
            std::make_shared<const DigestList>(copy_of(memory_), "what was read")};
        return MomentDigests(std::move(lists)).checksum();
    }

  private:
    [[nodiscard]] static UniqueFd copy_of(const UniqueFd& fd) {
        UniqueFd copy(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
        if (!copy) throw system_error(errno, "cannot have memory for digests");
        return copy;
    }

    UniqueFd memory_;
    DigestListWriter list_;
};

bus::ObjectPath made_in(const bus::Dict& result, const std::string& what) {
    const auto found = result.find(what);
    const auto path = found == result.end() ? std::nullopt : found->second.get<bus::ObjectPath>();
    if (!path) throw Error(ErrorCode::internal, "the daemon does not say which {} it has made", what);
    return *path;
}

}  // namespace

struct RestoredDisk::Filling {
    std::vector<UniqueFd> targets;
    ImageSockets sources;
};

async::Task<> RestoredDisk::fill(std::string name, bus::ObjectPath pool, bus::Dict options) {
    options["bind-to-caller"] = true;
    source_.name = name;
    const auto job = co_await work_.session().call_manager<bus::ObjectPath>("RestoreDisk", name, pool,
                                                                            source_.size, options);
    const bus::Dict result = co_await work_.job(job);
    making_ = made_in(result, "backup");
    shown_ = made_in(result, "export");
    auto filling = std::make_shared<Filling>();
    for (std::size_t i = 0; i < useful_connections(); ++i) {
        UniqueFd socket = co_await open_export(work_, shown_);
        filling->targets.push_back(std::move(socket));
    }
    co_await copy(filling);
}

async::Task<> RestoredDisk::copy(std::shared_ptr<Filling> filling) {
    auto server = co_await ImageServer::start(source_.images, false, quote(source_.images.back()));
    const std::size_t asking = source_.digests == nullptr ? 1 : 0;
    filling->sources = sockets_of(*server, asking, filling->targets.size());
    auto work = [this, filling] {
        const std::string image = quote(source_.images.back());
        const std::string name = ImageServer::export_name;
        // A server drops a connection that does not negotiate soon: all do, before anything takes its time.
        Connections writers =
            connect_for_copy(std::move(filling->targets), "", "disk " + quote(source_.name));
        Connections readers = connect_for_copy(std::move(filling->sources.copying), name, image);
        readers.resize(std::min(readers.size(), writers.size()));
        BlockRuns runs;
        if (source_.digests == nullptr) {
            NbdConnection zeroes(std::move(filling->sources.asking[0]), name, "base:allocation", image);
            const BlockSet data = zeroes.blocks_where(
                [](std::uint32_t flags) { return (flags & zeroes_there) == 0; }, work_.stop());
            runs = plan_runs(data, data);
        } else {
            runs = source_.digests->runs();
        }
        CopyPlan plan;
        plan.runs = &runs;
        plan.size = source_.size;
        plan.sources = &readers;
        plan.targets = &writers;
        work_.progress().total = bytes_to_copy(plan);
        std::string checksum = source_.checksum;
        if (source_.digests == nullptr) {
            FoundDigests found(source_.size, runs);
            copy_blocks(plan, found, work_.progress(), work_.stop());
            checksum = found.checksum();
        } else {
            DigestCheck check(*source_.digests);
            copy_blocks(plan, check, work_.progress(), work_.stop());
            if (const std::string problem = check.problem(); !problem.empty())
                throw Error(
                    ErrorCode::corrupt_image,
                    "{}, or an image that it stands on, is damaged: {}; see 'volchainctl backup verify'",
                    image, problem);
        }
        writers.front()->flush(work_.stop());
        return checksum;
    };
    checksum_ = co_await work_.run_over(std::move(server), "copy " + source_.name, std::move(work));
}

async::Task<> RestoredDisk::finish() {
    const bus::Dict result = co_await finish_backup(work_, making_);
    disk_ = made_in(result, "disk");
    volume_ = made_in(result, "volume");
    making_ = {};
}

async::Task<> RestoredDisk::verify() {
    const bus::Dict options{{"algorithm", bus::Variant(checksum_algorithm)}};
    const auto job = co_await work_.session().call<bus::ObjectPath>(volume_, "Checksum", options);
    bus::Dict result = co_await work_.job(job);
    const std::string found = result["checksum"].get<std::string>().value_or("");
    if (found != checksum_)
        throw Error(
            ErrorCode::corrupt_image,
            "disk {} does not hold what was written to it (checksum {}, not {}): is the medium of its pool "
            "damaged?",
            quote(source_.name), found, checksum_);
}

async::Task<> RestoredDisk::take_back(std::vector<std::string>& left) {
    std::exception_ptr failure;
    bus::ObjectPath job;
    if (!making_.none()) {
        co_await async::keep_result(work_.session().call<bus::ObjectPath>(making_, "Abort"), job, failure);
    } else if (!disk_.none()) {
        const bus::Dict options;
        co_await async::keep_result(work_.session().call<bus::ObjectPath>(disk_, "Delete", options), job,
                                    failure);
    } else {
        co_return;
    }
    if (!failure) co_await async::keep_failure(work_.job_to_its_end(job), failure);
    if (failure) left.push_back(fmt::format("disk {}: {}", quote(source_.name), to_error(failure).what()));
}

}  // namespace volchain::client
