// SPDX-License-Identifier: MIT
//
// org.volchain1.Job: the jobs on the bus, running and finished.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

class JobObject {
  public:
    explicit JobObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<JobObject> table();

    async::Task<> cancel(bus::Call call, Uuid id);
    async::Task<> pause(bus::Call call, Uuid id);
    async::Task<> resume(bus::Call call, Uuid id);
    async::Task<> set_speed(bus::Call call, Uuid id, std::uint64_t bytes_per_second);
    async::Task<std::tuple<std::string, TextPair, bus::Dict>> wait(bus::Call call, Uuid id);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string kind(Uuid id) const { return record(id).kind; }
    [[nodiscard]] bus::ObjectPath subject(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const { return std::string(word(record(id).state)); }
    [[nodiscard]] std::string step(Uuid id) const { return record(id).step; }
    [[nodiscard]] std::uint64_t done(Uuid id) const { return record(id).done_bytes; }
    [[nodiscard]] std::uint64_t total(Uuid id) const { return record(id).total_bytes; }
    [[nodiscard]] std::uint64_t started(Uuid id) const { return to_usec(record(id).started); }
    [[nodiscard]] std::uint64_t finished(Uuid id) const { return to_usec(record(id).finished); }
    [[nodiscard]] std::uint32_t owner(Uuid id) const { return record(id).owner_uid; }
    [[nodiscard]] TextPair error(Uuid id) const { return error_pair(record(id).error); }
    [[nodiscard]] bus::Dict result(Uuid id) const { return result_dict(record(id).result); }
    [[nodiscard]] bool cancellable(Uuid id) const;
    [[nodiscard]] std::uint64_t speed(Uuid id) const;

  private:
    /// The one that runs; Unsupported where it has ended.
    [[nodiscard]] storage::JobPtr live(Uuid id) const;
    /// Of the live job where there is one: it is ahead of what is on disk.
    [[nodiscard]] const storage::JobRecord& record(Uuid id) const;

    storage::Engine& engine_;
};

}  // namespace volchain::daemon
