// SPDX-License-Identifier: MIT
//
// LayerMap: what one layer of a chain holds by itself, without the layers below it, front to back. There
// are two: Qcow2LayerMap here, from the L1 and L2 tables of an image, and RawLayerMap (raw_layer_map.h).
//
// The file may be open in a QEMU meanwhile; nothing is locked and nothing is written. The map of a layer
// that nobody writes to is exact, also if a QEMU holds it: QEMU 7.2 writes its tables out when a snapshot
// covers the layer. That of one that a QEMU writes to is an estimate: what was written since the last flush
// may be missing, and an entry may change after it was read. A change that is met half-made and makes no
// sense is CorruptImage, as damage is.
//
// In memory there are one L2 table (at most 2 MiB) and 64 KiB of the L1 table at a time, whatever the
// disk's size. Of L2 tables no more is read than the file has bytes. That can be gigabytes, and one call of
// next() may read all of it: the caller runs it where blocking is allowed, and who wants to stop it gives
// it an ImageSource that throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "qcow2/header.h"
#include "qcow2/image_source.h"

namespace volchain::qcow2 {

enum class LayerKind {
    data,    // compressed too, and what was preallocated and never written, which tables do not tell apart
    zero,    // reads as zeroes, whatever is below
    absent,  // the layer says nothing: the backing file shows through, or zeroes where there is none
};

struct LayerExtent {
    std::uint64_t offset = 0;  // of the disk
    std::uint64_t length = 0;
    LayerKind kind = LayerKind::absent;
    /// What is written here goes where the layer has a place for it already. Elsewhere a write takes new
    /// space: where nothing is allocated, but also over compressed data and over what an internal snapshot
    /// shares.
    bool in_place = false;

    friend bool operator==(const LayerExtent&, const LayerExtent&) = default;
};

class LayerMap {
  public:
    LayerMap(const LayerMap&) = delete;
    LayerMap& operator=(const LayerMap&) = delete;
    virtual ~LayerMap() = default;

    /// The next extent, none at the end of the disk. Each begins where the one before it ended, and differs
    /// from it in kind or in_place. After an exception there is nothing more to be had from the map.
    [[nodiscard]] std::optional<LayerExtent> next();
    /// What the layer holds from `offset` on, up to where it is something else, at most up to `end`, which is not
    /// behind the end of the disk. For those who leave parts out: the tables of what lies between two calls are not
    /// read. From call to call `offset` does not go back.
    [[nodiscard]] LayerExtent at(std::uint64_t offset, std::uint64_t end);

    [[nodiscard]] std::uint64_t virtual_size() const noexcept { return virtual_size_; }
    /// The layer takes space by so many bytes, whatever little is written.
    [[nodiscard]] std::uint64_t cluster_size() const noexcept { return cluster_size_; }

  protected:
    LayerMap(std::uint64_t virtual_size, std::uint64_t cluster_size) noexcept
        : virtual_size_(virtual_size), cluster_size_(cluster_size) {}

  private:
    /// What is at `offset`, which is before the end of the disk, or some more of it. It may be like the piece
    /// before it, and may go on past the end of the disk.
    [[nodiscard]] virtual LayerExtent piece(std::uint64_t offset) = 0;

    std::uint64_t virtual_size_;
    std::uint64_t cluster_size_;
    std::uint64_t done_ = 0;      // what next() has returned
    LayerExtent seen_;            // the last that was looked at, so that no table is read twice
    bool seen_is_whole_ = false;  // something else follows it
};

/// The active state of an image; internal snapshots are not looked at. Where an entry has reserved bits set
/// or points to where nothing can be, next() throws CorruptImage, stricter than QEMU, which looks at some of
/// it only in "qemu-img check" and reads data behind the end of the file as zeroes.
class Qcow2LayerMap final : public LayerMap {
  public:
    /// Of the image that `header` was read from, just before if it may be resized meanwhile; `source`
    /// outlives the map. Unsupported where the data is in an external data file.
    Qcow2LayerMap(const ImageSource& source, const Header& header);

  private:
    struct Cluster;

    [[nodiscard]] LayerExtent piece(std::uint64_t offset) override;
    [[nodiscard]] std::uint64_t l1_entry(std::uint64_t index);
    void load_table(std::uint64_t index);
    [[nodiscard]] Cluster cluster_at(std::uint64_t offset) const;
    void check_compressed(std::uint64_t offset, std::uint64_t entry, std::uint64_t bitmap) const;
    void check_in_file(std::uint64_t offset, std::uint64_t host) const;

    const ImageSource* source_;
    Region l1_table_;
    std::uint32_t cluster_bits_;
    bool extended_;
    std::uint32_t entry_bits_;     // an L2 entry has 2^entry_bits_ bytes
    std::uint32_t table_bits_;     // an L2 table stands for 2^table_bits_ bytes of the disk
    std::uint64_t reserved_bits_;  // of an L2 entry, not compressed

    std::vector<std::byte> l1_piece_;
    std::uint64_t l1_piece_begin_ = 0;  // first index in the piece
    std::optional<std::uint64_t> table_index_;
    std::vector<std::byte> table_;    // of table_index_; empty where there is none
    std::uint64_t tables_bytes_ = 0;  // read so far
    std::uint64_t file_size_ = 0;     // after the table was read
};

}  // namespace volchain::qcow2
