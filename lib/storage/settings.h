// SPDX-License-Identifier: MIT
//
// Settings: what an administrator can set (volchain.toml, see config/), with the defaults. Read once at
// start.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace volchain::storage {

struct Settings {
    using Duration = std::chrono::milliseconds;

    // [jobs]
    std::chrono::seconds keep_finished_jobs = std::chrono::hours(24);
    Duration catch_up_limit = std::chrono::seconds(
        60);  ///< so long a commit tries to keep up with a guest that writes as fast as it copies

    // [images]: of images that are made without a parent to take after; none: those of the pool's directory
    std::optional<std::uint32_t> image_uid;
    std::optional<std::uint32_t> image_gid;
    std::uint32_t image_mode = 0660;

    // [quiesce]
    Duration agent_sync_timeout = std::chrono::seconds(3);  ///< whether there is an agent that answers
    Duration freeze_timeout =
        std::chrono::seconds(20);  ///< for the answer to a freeze, where the caller names none
    Duration freeze_limit =
        std::chrono::seconds(10);  ///< frozen for longer than this: thawed, whatever else hangs
    Duration thaw_timeout =
        std::chrono::seconds(10);  ///< for the answer to one thaw; it is sent again and again

    // [qemu]
    Duration greeting_timeout =
        std::chrono::seconds(3);  ///< a monitor without a greeting is held by another client
    Duration command_timeout = std::chrono::seconds(30);
    Duration switch_timeout =
        std::chrono::seconds(60);  ///< for the transaction, which waits for I/O under way
    Duration unplug_timeout =
        std::chrono::seconds(30);  ///< for a guest to let go of a disk, where the caller names none
    std::string storage_daemon;    ///< path; empty: looked for in the usual places
    std::string qemu_img;

    // [schedules]
    unsigned scheduled_runs_per_pool = 2;  ///< at a time; the same number of removals beside them

    // [pools]
    std::chrono::seconds pool_check_interval = std::chrono::seconds(10);
};

}  // namespace volchain::storage
