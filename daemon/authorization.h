// SPDX-License-Identifier: MIT
//
// Authorization: which method needs which polkit action. One table, complete (a test says so); a method that is not in
// it is denied. Root passes without polkit, as does the owner of a job who cancels it, and the owner of an export.
#pragma once

#include <optional>
#include <set>
#include <string_view>

#include "storage/engine.h"
#include "systemd/call.h"
#include "systemd/objects.h"
#include "systemd/polkit.h"

namespace volchain::daemon {

/// The polkit action for a method; none where the table does not have the method.
[[nodiscard]] std::optional<std::string_view> action_for(std::string_view interface,
                                                         std::string_view method) noexcept;

/// The rows of the table, so that a test can hold them against the methods that there are.
[[nodiscard]] std::set<bus::Objects::MethodName> authorized_methods();

class Authorization final : public bus::Gate {
  public:
    Authorization(bus::Connection& connection, const storage::Engine& engine);

    async::Task<> authorize(bus::Call call) override;

  private:
    async::Task<bool> controls_own_job(bus::Call call);
    async::Task<bool> uses_own_export(bus::Call call);
    async::Task<bool> ends_own_backup(bus::Call call);

    const storage::Engine& engine_;
    bus::Polkit polkit_;
};

}  // namespace volchain::daemon
