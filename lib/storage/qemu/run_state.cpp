// SPDX-License-Identifier: MIT
#include "storage/qemu/run_state.h"

namespace volchain::storage {
namespace {

constexpr auto finalize_pause = std::chrono::milliseconds(5);

}  // namespace

async::Task<std::string> run_state(std::shared_ptr<qmp::Session> session, async::Deadline deadline) {
    const Json status = co_await session->execute("query-status", Json::object(), deadline);
    co_return JsonReader(status, "query-status", ErrorCode::qemu_failed).at("status").string();
}

async::Task<std::string> run_state_after_migration(std::shared_ptr<qmp::Session> session,
                                                   async::Deadline deadline) {
    std::string state = co_await run_state(session, deadline);
    while (state == "finish-migrate") {
        co_await async::sleep_until(async::after(finalize_pause));
        state = co_await run_state(session, deadline);
    }
    co_return state;
}

}  // namespace volchain::storage
