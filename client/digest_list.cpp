// SPDX-License-Identifier: MIT
#include "client/digest_list.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::client {
namespace {

constexpr std::array<char, 8> list_magic{'V', 'C', 'D', 'I', 'G', 'E', 'S', 'T'};
constexpr std::uint64_t list_version = 1;
constexpr std::size_t header_numbers = 5;  // behind the magic
constexpr std::uint64_t header_bytes = 8 * (1 + header_numbers);
constexpr std::uint64_t run_bytes = 16;
constexpr std::uint64_t zero_mark = std::uint64_t{1} << 63;
/// Of 1 TiB in which every other block is new there are 8 millions.
constexpr std::uint64_t most_runs = std::uint64_t{1} << 26;
constexpr std::uint64_t largest_disk = std::uint64_t{1} << 62;
constexpr std::size_t runs_at_once = 4096;
constexpr std::size_t digests_at_once = 4096;

void put_number(std::byte* at, std::uint64_t number) {
    for (std::size_t i = 0; i < 8; ++i) at[i] = static_cast<std::byte>(number >> (8 * i));
}

std::uint64_t number_at(const std::byte* at) {
    std::uint64_t number = 0;
    for (std::size_t i = 0; i < 8; ++i) number |= std::to_integer<std::uint64_t>(at[i]) << (8 * i);
    return number;
}

}  // namespace

// --- reading -----------------------------------------------------------------------------------------------

DigestList::DigestList(UniqueFd file, std::string name) : file_(std::move(file)), name_(std::move(name)) {
    std::array<std::byte, header_bytes> header{};
    if (read_some(header, 0) < header.size() ||
        std::memcmp(header.data(), list_magic.data(), list_magic.size()) != 0)
        fail("is no list of digests");
    std::array<std::uint64_t, header_numbers> numbers{};
    for (std::size_t i = 0; i < header_numbers; ++i) numbers[i] = number_at(header.data() + 8 * (i + 1));
    const auto [version, block, size, runs, digests] = numbers;
    if (version != list_version) fail(fmt::format("is of version {}, which is not known", version));
    if (block != block_bytes) fail(fmt::format("is of blocks of {} bytes", block));
    if (size > largest_disk) fail("is of a disk that cannot be");
    if (runs > most_runs || digests > blocks_of(size)) fail("counts more than there can be");
    disk_size_ = size;
    digests_at_ = header_bytes + runs * run_bytes;
    struct stat status {};
    if (::fstat(file_.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(name_));
    const std::uint64_t length = digests_at_ + digests * sizeof(Digest);
    if (status.st_size < 0 || static_cast<std::uint64_t>(status.st_size) != length)
        fail(fmt::format("has {} bytes, not {}", status.st_size, length));
    read_runs(runs, digests);
}

void DigestList::read_runs(std::uint64_t count, std::uint64_t digests) {
    std::vector<std::byte> part(runs_at_once * run_bytes);
    const std::uint64_t blocks = blocks_of(disk_size_);
    std::uint64_t end = 0;
    std::uint64_t slot = 0;
    runs_.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t number = 0; number < count; ++number) {
        const std::size_t place = static_cast<std::size_t>(number % runs_at_once) * run_bytes;
        if (place == 0) {
            const auto now = static_cast<std::size_t>(std::min<std::uint64_t>(runs_at_once, count - number));
            const auto wanted = std::span(part).first(now * run_bytes);
            if (read_some(wanted, header_bytes + number * run_bytes) < wanted.size()) fail("ends too soon");
        }
        BlockRun run;
        run.first = number_at(part.data() + place);
        const std::uint64_t marked = number_at(part.data() + place + 8);
        run.count = marked & ~zero_mark;
        run.kind = (marked & zero_mark) != 0 ? BlockKind::zero : BlockKind::data;
        if (run.first < end || run.first >= blocks || run.count == 0 || run.count > blocks - run.first)
            fail(fmt::format("has a run of blocks that cannot be ({} from {} on)", run.count, run.first));
        end = run.first + run.count;
        if (run.kind == BlockKind::data) {
            run.slot = slot;
            slot += run.count;
        }
        runs_.push_back(run);
    }
    if (slot != digests) fail(fmt::format("has {} digests for {} blocks", digests, slot));
}

void DigestList::read(std::uint64_t slot, std::span<Digest> into) const {
    const auto bytes = std::as_writable_bytes(into);
    if (read_some(bytes, digests_at_ + slot * sizeof(Digest)) < bytes.size()) fail("ends too soon");
}

std::size_t DigestList::read_some(std::span<std::byte> into, std::uint64_t offset) const {
    try {
        return read_at(file_.get(), into, offset);
    } catch (const Error& error) {
        throw error.during(quote(name_));
    }
}

void DigestList::fail(const std::string& why) const {
    throw Error(ErrorCode::corrupt_image, "{} {}", quote(name_), why);
}

// --- writing -----------------------------------------------------------------------------------------------

DigestListWriter::DigestListWriter(UniqueFd file, std::string name, std::uint64_t disk_size,
                                   const BlockRuns& runs)
    : file_(std::move(file)), name_(std::move(name)) {
    std::vector<std::byte> head(header_bytes + runs.size() * run_bytes);
    std::memcpy(head.data(), list_magic.data(), list_magic.size());
    const std::array<std::uint64_t, header_numbers> numbers{list_version, block_bytes, disk_size, runs.size(),
                                                            count_blocks(runs, BlockKind::data)};
    for (std::size_t i = 0; i < header_numbers; ++i) put_number(head.data() + 8 * (i + 1), numbers[i]);
    std::byte* at = head.data() + header_bytes;
    for (const BlockRun& run : runs) {
        put_number(at, run.first);
        put_number(at + 8, run.count | (run.kind == BlockKind::zero ? zero_mark : 0));
        at += run_bytes;
    }
    digests_at_ = head.size();
    write(head, 0);
}

void DigestListWriter::put(std::uint64_t slot, std::span<const Digest> digests) {
    write(std::as_bytes(digests), digests_at_ + slot * sizeof(Digest));
}

void DigestListWriter::finish() {
    sync(file_.get(), quote(name_));
}

void DigestListWriter::write(std::span<const std::byte> bytes, std::uint64_t offset) {
    try {
        write_at(file_.get(), bytes, offset);
    } catch (const Error& error) {
        throw error.during(quote(name_));
    }
}

// --- of a moment -------------------------------------------------------------------------------------------

MomentDigests::MomentDigests(std::vector<std::shared_ptr<const DigestList>> lists)
    : lists_(std::move(lists)) {
    disk_size_ = lists_.front()->disk_size();
    BlockSet open(blocks_of(disk_size_));
    for (std::size_t number = 0; number < lists_.size(); ++number) {
        const DigestList& list = *lists_[number];
        if (list.disk_size() != disk_size_)
            throw Error(ErrorCode::corrupt_image, "{} is of a disk of {} bytes, and {} of one of {}",
                        quote(list.name()), list.disk_size(), quote(lists_.front()->name()), disk_size_);
        auto seen = open.ranges().begin();
        for (const BlockRun& run : list.runs()) {
            const std::uint64_t end = run.first + run.count;
            while (seen != open.ranges().end() && seen->end <= run.first) ++seen;
            for (auto part = seen; part != open.ranges().end() && part->first < end; ++part) {
                const std::uint64_t first = std::max(part->first, run.first);
                runs_.push_back({first, std::min(part->end, end) - first, run.kind,
                                 run.slot + (first - run.first), number});
            }
        }
        open = open.without(blocks_in(list.runs()));
    }
    std::sort(runs_.begin(), runs_.end(),
              [](const BlockRun& a, const BlockRun& b) { return a.first < b.first; });
}

void MomentDigests::read(std::size_t list, std::uint64_t slot, std::span<Digest> into) const {
    lists_[list]->read(slot, into);
}

std::string MomentDigests::checksum() const {
    DiskChecksum sum(disk_size_);
    std::vector<Digest> digests(digests_at_once);
    std::uint64_t at = 0;
    for (const BlockRun& run : runs_) {
        if (run.first > at) sum.add_zeroes(at, run.first - at);
        at = run.first + run.count;
        if (run.kind == BlockKind::zero) {
            sum.add_zeroes(run.first, run.count);
            continue;
        }
        for (std::uint64_t done = 0; done < run.count;) {
            const auto now =
                static_cast<std::size_t>(std::min<std::uint64_t>(run.count - done, digests.size()));
            read(run.list, run.slot + done, std::span(digests).first(now));
            sum.add(std::span(digests).first(now));
            done += now;
        }
    }
    if (at < blocks_of(disk_size_)) sum.add_zeroes(at, blocks_of(disk_size_) - at);
    return sum.finish();
}

}  // namespace volchain::client
