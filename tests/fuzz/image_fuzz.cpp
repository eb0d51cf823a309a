// SPDX-License-Identifier: MIT
//
// Feeds images to the policy for images that are not ours yet (storage/image.h), as a file in a pool, under
// each declaration of its format. What is refused is refused with one of the codes that an import answers
// with. What is accepted leads nowhere else: no data file, no key, and a backing file only where it is a
// plain path, without links, with a format. And no image makes the reader for images of ours throw.
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "base/file.h"
#include "qcow2/identify.h"
#include "storage/images/image.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

void require(bool condition) {
    if (!condition) std::abort();
}

/// A pool with the image under test, a file that it may name as its backing file, and a link that it may not.
class Pool {
  public:
    Pool() {
        require(::mkdtemp(path_.data()) != nullptr);
        fs::create_directory(fs::path(path_) / "real");
        fs::create_symlink("real", fs::path(path_) / "link");
        for (const char* name : {"base.qcow2", "real/base.qcow2"})
            UniqueFd(::open((path_ + "/" + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        image_.reset(::open((path_ + "/image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        require(static_cast<bool>(image_));
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    ~Pool() { fs::remove_all(path_); }

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] int image() const noexcept { return image_.get(); }

    void put(std::span<const std::byte> bytes, std::uint64_t length) const {
        require(::ftruncate(image_.get(), 0) == 0);
        write_at(image_.get(), bytes, 0);
        require(::ftruncate(image_.get(), static_cast<off_t>(length)) == 0);
    }

  private:
    std::string path_ = fs::is_directory("/dev/shm") ? "/dev/shm/vc-fuzz-XXXXXX" : "/tmp/vc-fuzz-XXXXXX";
    UniqueFd image_;
};

bool answer_of_an_import(ErrorCode code) {
    return code == ErrorCode::unsafe_image || code == ErrorCode::corrupt_image ||
           code == ErrorCode::unsupported || code == ErrorCode::broken_chain ||
           code == ErrorCode::invalid_argument;
}

void expect_harmless(const Pool& pool, const VolumeFacts& facts, std::optional<VolumeFormat> declared) {
    require(facts.state == VolumeState::ok);
    require(!declared || format_of(facts) == *declared);
    if (!facts.header) {
        require(declared == VolumeFormat::raw && !facts.backing && facts.bitmaps.empty());
        require(!qcow2::identify(qcow2::FileSource(pool.image())));
        return;
    }
    require(!facts.header->features.external_data_file && !facts.header->features.corrupt);
    require(facts.header->encryption == qcow2::Encryption::none);
    require(facts.header->backing_file.has_value() == facts.backing.has_value());
    if (!facts.backing) return;
    require(fs::path(facts.backing->path).is_absolute());
    require(fs::canonical(facts.backing->path) == facts.backing->path);
    require(from_word<VolumeFormat>(facts.backing->format).has_value());
}

void look_at(const Pool& pool) {
    for (const auto declared : {std::optional<VolumeFormat>(), std::optional(VolumeFormat::qcow2),
                                std::optional(VolumeFormat::raw)}) {
        try {
            expect_harmless(pool, inspect_foreign_image(pool.path(), "image", declared), declared);
        } catch (const Error& error) {
            require(answer_of_an_import(error.code()));
        }
    }
    for (const VolumeFormat format : {VolumeFormat::qcow2, VolumeFormat::raw}) {
        const VolumeFacts facts = inspect_image(pool.path(), "image", format);
        require((facts.state == VolumeState::ok) == facts.problem.empty());
    }
}

}  // namespace
}  // namespace volchain::storage

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain::storage;
    static const Pool pool;
    const auto bytes = std::as_bytes(std::span(data, size));
    pool.put(bytes, size);
    look_at(pool);
    // So that the first bytes of an image with large clusters get far enough; it takes no room.
    pool.put(bytes, size + (std::uint64_t{8} << 20));
    look_at(pool);
    return 0;
}
