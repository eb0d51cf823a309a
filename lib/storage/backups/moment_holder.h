// SPDX-License-Identifier: MIT
//
// MomentHolder: what holds the moment of a backup that is being begun, and shows it or copies it into files. There is one for the
// disks of a running VM (running_moment.h) and one for images that no guest writes to (stored_moment.h); the operation that begins
// a backup (start_backup.h) owns it, and knows nothing of either. It only makes: what it has made, dismantle_backup() takes away,
// after an error as after a crash, whoever holds it.
#pragma once

#include <memory>
#include <vector>

#include "storage/backups/backup_request.h"

namespace volchain::storage {

/// How the moment is to be held. A class with a constructor, so that it may be handed to coroutines.
struct HoldOptions {
    explicit HoldOptions(QuiesceMode mode) : quiesce(mode) {}

    QuiesceMode quiesce;
    async::Clock::duration freeze_timeout{};
};

/// What came of it.
struct HeldMoment {
    HeldMoment() = default;
    HeldMoment(Consistency worth, Timestamp when) : consistency(worth), moment(when) {}

    Consistency consistency = Consistency::crash;
    Timestamp moment;
    Json result = Json::object();  ///< of the job
};

class MomentHolder {
  public:
    MomentHolder() = default;
    MomentHolder(const MomentHolder&) = delete;
    MomentHolder& operator=(const MomentHolder&) = delete;
    virtual ~MomentHolder() = default;

    // The steps, in this order, on disk as steps of the job.
    virtual async::Task<HeldMoment> hold(HoldOptions options) = 0;
    /// Either of these. In pull mode: all disks over NBD; the exports, for the record.
    virtual async::Task<std::vector<ExportRecord>> show() = 0;
    /// In push mode: all files, complete and on the medium. Throws where the moment was not held until then.
    virtual async::Task<> push(std::vector<PushedFile> files, bool compress) = 0;
    /// In pull mode, when nothing can fail any more.
    virtual void let_go() = 0;
};

[[nodiscard]] std::unique_ptr<MomentHolder> holder_of_running(Engine& engine, JobPtr job, const Uuid& backup);
[[nodiscard]] std::unique_ptr<MomentHolder> holder_of_stored(Engine& engine, JobPtr job, const Uuid& backup);

}  // namespace volchain::storage
