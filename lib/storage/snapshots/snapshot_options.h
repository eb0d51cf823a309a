// SPDX-License-Identifier: MIT
//
// SnapshotOptions: how a snapshot is to be taken, as far as somebody has said: in a call of CreateSnapshot, in a profile
// of a VM, in a schedule. As JSON it stands in records; what is not said there is the default of CreateSnapshot.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/snapshots/create_snapshot.h"

namespace volchain::storage {

struct SnapshotOptions {
    std::optional<std::string> profile;  ///< what is not said here is said there
    std::optional<std::string> description;
    std::optional<std::vector<Uuid>> disks;
    std::optional<std::vector<Uuid>> exclude;
    std::optional<QuiesceMode> quiesce;
    std::optional<Microseconds> freeze_timeout;
    std::optional<OnDiskFailure> on_disk_failure;
    std::optional<bool> memory;

    [[nodiscard]] Json json() const;
    /// `wrong`: what is thrown where it is none.
    [[nodiscard]] static SnapshotOptions from_json(const Json& json, ErrorCode wrong = ErrorCode::internal);
};

/// What cannot be right, whatever becomes of the VM: another VM's disks, a description that is too long, a profile that it
/// does not have.
void check_snapshot_options(const Catalog& catalog, const Uuid& vm, const SnapshotOptions& options);
/// Puts the options, and those of the profile that they name, into a request. NotFound where there is no such profile.
void apply_snapshot_options(const Catalog& catalog, const SnapshotOptions& options, SnapshotRequest& request);

/// Profiles of a VM: options by name. Saving one that is there replaces it.
async::Task<> save_profile(Engine& engine, Uuid vm, std::string name, SnapshotOptions options);
async::Task<> delete_profile(Engine& engine, Uuid vm, std::string name);

}  // namespace volchain::storage
