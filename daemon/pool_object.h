// SPDX-License-Identifier: MIT
//
// org.volchain1.Pool: the pools on the bus.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

class PoolObject {
  public:
    explicit PoolObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<PoolObject> table();

    async::Task<bus::ObjectPath> create_disk(bus::Call call, Uuid id, std::string name, std::uint64_t size,
                                             bus::Options options);
    async::Task<bus::ObjectPath> import_disk(bus::Call call, Uuid id, std::string path, bus::Options options);
    async::Task<bus::ObjectPath> refresh(bus::Call call, Uuid id);
    async::Task<> remove(bus::Call call, Uuid id);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string name(Uuid id) const;
    [[nodiscard]] std::string path(Uuid id) const;
    [[nodiscard]] std::string kind(Uuid) const { return "directory"; }
    [[nodiscard]] std::string filesystem(Uuid id) const;
    [[nodiscard]] std::uint64_t capacity(Uuid id) const;
    [[nodiscard]] std::uint64_t free(Uuid id) const;
    [[nodiscard]] bool reflink(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;

  private:
    storage::Engine& engine_;
};

}  // namespace volchain::daemon
