// SPDX-License-Identifier: MIT
//
// org.volchain1.Volume: the volumes on the bus.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

class VolumeObject {
  public:
    VolumeObject(storage::Engine& engine, const bus::Connection& bus) : engine_(engine), bus_(bus) {}
    [[nodiscard]] bus::Interface<VolumeObject> table();

    async::Task<bus::ObjectPath> commit(bus::Call call, Uuid id, bus::ObjectPath base, bus::Options options);
    async::Task<bus::ObjectPath> clone(bus::Call call, Uuid id, std::string name, bus::ObjectPath pool,
                                       bus::Options options);
    async::Task<bus::ObjectPath> merge(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> export_volume(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> remove(bus::Call call, Uuid id, bus::Options options);
    async::Task<Extents> map(bus::Call call, Uuid id, std::uint64_t start, std::uint64_t length);
    async::Task<std::tuple<std::uint64_t, std::uint64_t>> measure(bus::Call call, Uuid id,
                                                                  bus::Options options);
    async::Task<bus::ObjectPath> checksum(bus::Call call, Uuid id, bus::Options options);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] bus::ObjectPath disk(Uuid id) const;
    [[nodiscard]] bus::ObjectPath pool(Uuid id) const;
    [[nodiscard]] std::string path(Uuid id) const;
    [[nodiscard]] std::string format(Uuid id) const;
    [[nodiscard]] std::uint64_t size(Uuid id) const;
    [[nodiscard]] std::uint64_t allocated(Uuid id) const;
    [[nodiscard]] bus::ObjectPath backing(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> children(Uuid id) const;
    [[nodiscard]] std::uint32_t depth(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;
    [[nodiscard]] bool active(Uuid id) const;
    [[nodiscard]] std::uint64_t cluster_size(Uuid id) const;
    [[nodiscard]] std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>> bitmaps(Uuid id) const;

  private:
    /// The disk in the running QEMU whose active layer this volume is; null where there is none.
    [[nodiscard]] const storage::LiveDisk* live_disk(const Uuid& id) const;

    storage::Engine& engine_;
    const bus::Connection& bus_;
};

/// Flags of a bitmap in Volume.Bitmaps.
constexpr std::uint64_t bitmap_in_use = 1;        ///< open for writing, or left so by a crash
constexpr std::uint64_t bitmap_recording = 2;     ///< marks what is written
constexpr std::uint64_t bitmap_inconsistent = 4;  ///< its bits cannot be relied on

}  // namespace volchain::daemon
