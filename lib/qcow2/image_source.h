// SPDX-License-Identifier: MIT
//
// ImageSource: where the readers of this directory get bytes from. A file descriptor for the daemon
// (which keeps owning it), a buffer for tests and fuzzing. It neither opens nor locks anything: whether
// somebody else writes to the image meanwhile is the caller's concern, and a reader that meets a
// half-made change says the image is corrupt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace volchain::qcow2 {

class ImageSource {
  public:
    virtual ~ImageSource() = default;

    /// Bytes from the start to the end of the image file. Asked anew each time, since a running VM's
    /// image grows.
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    /// Fills `buffer` with what is at `offset`; CorruptImage where the file ends before.
    virtual void read(std::span<std::byte> buffer, std::uint64_t offset) const = 0;
};

/// A regular file or block device that the caller has open for reading and keeps open. Anything else is
/// refused with UnsafeImage: a FIFO or a character device has no size, and reading it may block.
class FileSource final : public ImageSource {
  public:
    explicit FileSource(int fd);
    [[nodiscard]] std::uint64_t size() const override;
    void read(std::span<std::byte> buffer, std::uint64_t offset) const override;

  private:
    int fd_;
};

/// Bytes that outlive the source.
class MemorySource final : public ImageSource {
  public:
    explicit MemorySource(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}
    [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
    void read(std::span<std::byte> buffer, std::uint64_t offset) const override;

  private:
    std::span<const std::byte> bytes_;
};

}  // namespace volchain::qcow2
