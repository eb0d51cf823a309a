// SPDX-License-Identifier: MIT
#include "support.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "base/file.h"
#include "base/text.h"
#include "base/unique_fd.h"
#include "qcow2/allocation.h"
#include "qcow2/bitmap_directory.h"
#include "qcow2/image_source.h"
#include "qcow2/limits.h"
#include "qcow2/snapshot_table.h"

namespace volchain::qcow2 {
namespace {

std::string all_of(int fd) {
    std::string text(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END)), '\0');
    (void)read_at(fd, std::as_writable_bytes(std::span(text)), 0);
    return text;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() : path_(testing::TempDir() + "/volchain-qcow2-XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr) throw system_error(errno, "cannot make a temporary directory");
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::operator/(std::string_view name) const {
    return path_ + "/" + std::string(name);
}

Outcome run(const Words& words) {
    std::vector<char*> argv;
    std::transform(words.begin(), words.end(), std::back_inserter(argv),
                   [](const std::string& word) { return const_cast<char*>(word.c_str()); });
    argv.push_back(nullptr);
    const UniqueFd output(::memfd_create("output", MFD_CLOEXEC));
    const UniqueFd errors(::memfd_create("errors", MFD_CLOEXEC));
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, output.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, errors.get(), STDERR_FILENO);
    pid_t pid = -1;
    const int failure = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (failure != 0) throw system_error(failure, words[0]);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), all_of(output.get()),
            all_of(errors.get())};
}

std::string run_well(const Words& words) {
    Outcome outcome = run(words);
    // For LUKS it measures how fast it derives a key, and gives up where the clock of the CPU stood still meanwhile.
    const auto unlucky = [&] { return outcome.errors.find("accurate CPU usage") != std::string::npos; };
    for (int again = 0; again < 20 && unlucky(); ++again) outcome = run(words);
    EXPECT_EQ(outcome.status, 0) << joined(words, " ") << "\n" << outcome.output << outcome.errors;
    return outcome.output;
}

void create(const std::string& path, std::string_view size, std::string_view options, const Words& more) {
    Words words{"qemu-img", "create", "-q", "-f", "qcow2"};
    if (!options.empty()) words.insert(words.end(), {"-o", std::string(options)});
    words.insert(words.end(), more.begin(), more.end());
    words.push_back(path);
    if (!size.empty()) words.emplace_back(size);
    run_well(words);
}

Bytes created(std::string_view size, std::string_view options, const Words& more) {
    const TemporaryDirectory directory;
    create(directory / "image", size, options, more);
    return load(directory / "image");
}

const Bytes& luks_image() {
    static const Bytes bytes =
        created("1M", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
                {"--object", "secret,id=key,data=secret"});
    return bytes;
}

std::optional<Json> info(const std::string& path) {
    const Outcome outcome = run({"qemu-img", "info", "--output=json", "-f", "qcow2", path});
    if (outcome.status != 0) return std::nullopt;
    return Json::parse(outcome.output);
}

Bytes load(const std::string& path) {
    const std::string text = read_file(path, 512U << 20);
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

void store(const std::string& path, std::span<const std::byte> bytes) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) throw system_error(errno, path);
    write_at(fd.get(), bytes, 0);
}

void put_text(Bytes& bytes, std::size_t offset, std::string_view text) {
    const auto from = std::as_bytes(std::span(text));
    std::copy(from.begin(), from.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
}

Header header_of(const Bytes& bytes) {
    return read_header(MemorySource(bytes));
}

Header header_of_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    return read_header(FileSource(fd.get()));
}

std::vector<LayerExtent> all_of(LayerMap& map) {
    std::vector<LayerExtent> extents;
    while (const auto extent = map.next()) extents.push_back(*extent);
    return extents;
}

std::vector<LayerExtent> extents_of_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const FileSource source(fd.get());
    Qcow2LayerMap map(source, read_header(source));
    return all_of(map);
}

std::optional<Error> error_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        return error;
    }
    return std::nullopt;
}

std::optional<Error> error_in(const Bytes& bytes) {
    return error_of([&] {
        const MemorySource source(bytes);
        const Header header = read_header(source);
        (void)read_bitmaps(source, header);
        (void)read_snapshots(source, header);
        (void)has_data(source, header);
        if (header.features.external_data_file) return;
        Qcow2LayerMap map(source, header);
        (void)all_of(map);
    });
}

void expect_refused(const Bytes& bytes, ErrorCode code, std::string_view part) {
    const auto error = error_in(bytes);
    ASSERT_TRUE(error) << "expected: " << part;
    EXPECT_EQ(error->code(), code) << error->what();
    EXPECT_NE(std::string_view(error->what()).find(part), std::string_view::npos) << error->what();
}

Bytes damaged(Bytes bytes, const Damage& damage) {
    for (std::size_t i = 0; i < damage.width; ++i)
        bytes[damage.offset + damage.width - 1 - i] = static_cast<std::byte>(damage.value >> (8 * i));
    return bytes;
}

void expect_damage_refused(const Bytes& bytes, std::span<const Damage> damages) {
    const TemporaryDirectory directory;
    for (const Damage& damage : damages) {
        SCOPED_TRACE(fmt::format("at {}: {:#x} ({})", damage.offset, damage.value, damage.part));
        const Bytes copy = damaged(bytes, damage);
        expect_refused(copy, damage.code, damage.part);
        store(directory / "image", copy);
        EXPECT_EQ(info(directory / "image").has_value(), damage.qemu_opens);
    }
}

std::size_t extension_at(const Bytes& bytes, std::uint32_t type) {
    std::size_t offset = get<std::uint32_t>(bytes, 4) == 2 ? header_bytes_v2 : get<std::uint32_t>(bytes, 100);
    while (get<std::uint32_t>(bytes, offset) != type) {
        if (get<std::uint32_t>(bytes, offset) == extension_end)
            throw Error(ErrorCode::not_found, "no header extension {:#x}", type);
        offset += 8 + (get<std::uint32_t>(bytes, offset + 4) + 7) / 8 * 8;
    }
    return offset;
}

namespace {

/// Names are bytes; in JSON, QEMU puts a replacement character where they are not UTF-8.
void compare_name(const std::optional<std::string>& ours, const Json& object, const char* member) {
    const std::string theirs = object.contains(member) ? object.at(member).get<std::string>() : std::string();
    if (ours && !valid_utf8(*ours)) return;
    EXPECT_EQ(ours.value_or(""), theirs);
}

void compare_bitmaps(const std::vector<Bitmap>& bitmaps, const Json& data) {
    const Json theirs = data.contains("bitmaps") ? data.at("bitmaps") : Json::array();
    ASSERT_EQ(bitmaps.size(), theirs.size());
    for (std::size_t i = 0; i < bitmaps.size(); ++i) {
        const Json& flags = theirs[i].at("flags");
        const auto flag = [&](const char* name) {
            return std::find(flags.begin(), flags.end(), name) != flags.end();
        };
        EXPECT_EQ(bitmaps[i].name, theirs[i].at("name").get<std::string>());
        EXPECT_EQ(bitmaps[i].granularity, theirs[i].at("granularity").get<std::uint64_t>());
        EXPECT_EQ(bitmaps[i].in_use, flag("in-use"));
        EXPECT_EQ(bitmaps[i].recording, flag("auto"));
    }
}

void compare_snapshots(const std::vector<Snapshot>& snapshots, const Json& image) {
    const Json theirs = image.contains("snapshots") ? image.at("snapshots") : Json::array();
    ASSERT_EQ(snapshots.size(), theirs.size());
    for (std::size_t i = 0; i < snapshots.size(); ++i) {
        EXPECT_EQ(snapshots[i].id, theirs[i].at("id").get<std::string>());
        EXPECT_EQ(snapshots[i].name, theirs[i].at("name").get<std::string>());
        EXPECT_EQ(snapshots[i].created_sec, theirs[i].at("date-sec").get<std::uint32_t>());
        EXPECT_EQ(snapshots[i].created_nsec, theirs[i].at("date-nsec").get<std::uint32_t>());
        EXPECT_EQ(snapshots[i].vm_state_bytes, theirs[i].at("vm-state-size").get<std::uint64_t>());
    }
}

void compare_header(const Header& header, const Json& image) {
    const Json& data = image.at("format-specific").at("data");
    const auto flag = [&](const char* name) { return data.contains(name) && data.at(name).get<bool>(); };
    EXPECT_EQ(header.virtual_size, image.at("virtual-size").get<std::uint64_t>());
    EXPECT_EQ(header.cluster_size(), image.at("cluster-size").get<std::uint64_t>());
    EXPECT_EQ(header.features.dirty, image.at("dirty-flag").get<bool>());
    compare_name(header.backing_file, image, "backing-filename");
    if (header.backing_file) compare_name(header.backing_format, image, "backing-filename-format");
    EXPECT_EQ(header.version == 2 ? "0.10" : "1.1", data.at("compat").get<std::string>());
    EXPECT_EQ(header.refcount_bits(), data.at("refcount-bits").get<std::uint32_t>());
    EXPECT_EQ(name(header.compression), data.at("compression-type").get<std::string>());
    EXPECT_EQ(header.features.corrupt, flag("corrupt"));
    EXPECT_EQ(header.features.extended_l2, flag("extended-l2"));
    EXPECT_EQ(header.features.lazy_refcounts, flag("lazy-refcounts"));
    EXPECT_EQ(header.features.raw_external_data, flag("data-file-raw"));
    compare_name(header.data_file, data, "data-file");
    EXPECT_EQ(name(header.encryption),
              data.contains("encrypt") ? data.at("encrypt").at("format").get<std::string>() : "none");
}

}  // namespace

void expect_as_qemu_says(const std::string& path) {
    SCOPED_TRACE(path);
    const auto image = info(path);
    ASSERT_TRUE(image) << "QEMU does not open it";
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const FileSource source(fd.get());
    const Header header = read_header(source);
    compare_header(header, *image);
    compare_bitmaps(read_bitmaps(source, header), image->at("format-specific").at("data"));
    compare_snapshots(read_snapshots(source, header), *image);
}

}  // namespace volchain::qcow2
