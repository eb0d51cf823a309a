// SPDX-License-Identifier: MIT
#include "qmp/migration.h"

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/text.h"
#include "qmp/schema.h"

namespace volchain::qmp {
namespace {

/// What the file is called in QEMU. Another one of that name takes its place.
constexpr const char* file_name = "volchain-memory";

}  // namespace

MigrationInfo MigrationInfo::parse(const Json& answer) {
    const JsonReader reader(answer, "answer of query-migrate", ErrorCode::qemu_failed);
    MigrationInfo info;
    info.status = reader.string_or("status", "");
    if (info.status == "none") info.status.clear();
    if (const auto ram = reader.find("ram")) {
        info.remaining = ram->u64_or("remaining", 0);
        info.total = ram->u64_or("total", 0);
        info.pages = ram->u64_or("normal", 0) + ram->u64_or("duplicate", 0);
    }
    info.error = reader.string_or("error-desc", "");
    if (const auto downtime = reader.find("downtime")) info.downtime_ms = downtime->u64();
    if (const auto blocked = reader.find("blocked-reasons"))
        for (const JsonReader& reason : blocked->elements()) info.blocked.push_back(reason.string());
    return info;
}

bool MigrationInfo::under_way() const noexcept {
    constexpr std::array<std::string_view, 4> ended{"", "completed", "failed", "cancelled"};
    return std::find(ended.begin(), ended.end(), status) == ended.end();
}

async::Task<Capabilities> read_capabilities(std::shared_ptr<Session> session, async::Deadline deadline) {
    const Json answer = co_await session->execute("query-migrate-capabilities", Json::object(), deadline);
    Capabilities all;
    for (const JsonReader& entry :
         JsonReader(answer, "query-migrate-capabilities", ErrorCode::qemu_failed).elements())
        all[entry.at("capability").string()] = entry.at("state").boolean();
    co_return all;
}

async::Task<> set_capabilities(std::shared_ptr<Session> session, Capabilities wanted,
                               async::Deadline deadline) {
    Json arguments;
    arguments["capabilities"] = Json::array();
    for (const auto& [name, on] : wanted) {
        Json entry;
        entry["capability"] = name;
        entry["state"] = on;
        arguments["capabilities"].push_back(std::move(entry));
    }
    (void)co_await session->execute("migrate-set-capabilities", std::move(arguments), deadline);
}

Migration::Migration(std::shared_ptr<Session> session) : session_(std::move(session)) {
    subscription_ =
        session_->subscribe([this](const Event& event) { take(event); }, [this] { changed_.notify(); });
}

void Migration::take(const Event& event) {
    if (event.name == "MIGRATION") {
        status_ = event.read().string_or("status", "");
    } else if (event.name == "STOP") {
        stopped_ = event.time;
        resumed_.reset();
    } else if (event.name == "RESUME") {
        resumed_ = event.time;
    } else {
        return;
    }
    ++happened_;
    changed_.notify();
}

async::Task<MigrationInfo> Migration::query(async::Deadline deadline) {
    const Json answer = co_await session_->execute("query-migrate", Json::object(), deadline);
    co_return MigrationInfo::parse(answer);
}

async::Task<bool> Migration::takes_fd_sets(async::Deadline deadline) {
    const auto schema = co_await session_->schema(deadline);
    co_return schema->command_has_argument({"migrate", "channels", "addr", "file", "filename"});
}

async::Task<> Migration::pass(UniqueFd file, async::Deadline deadline) {
    co_await take_back(deadline);
    const bool as_set = co_await takes_fd_sets(deadline);
    Json arguments;
    if (as_set) {
        arguments["opaque"] = file_name;
        const Json answer =
            co_await session_->execute_with(std::move(file), "add-fd", std::move(arguments), deadline);
        const JsonReader added(answer, "answer of add-fd", ErrorCode::qemu_failed);
        uri_ = fmt::format("file:/dev/fdset/{}", added.at("fdset-id").u64());
        co_return;
    }
    arguments["fdname"] = file_name;
    (void)co_await session_->execute_with(std::move(file), "getfd", std::move(arguments), deadline);
    uri_ = fmt::format("fd:{}", file_name);
}

/// Also what another session has left there.
async::Task<> Migration::take_back(async::Deadline deadline) {
    const bool as_set = co_await takes_fd_sets(deadline);
    if (!as_set) co_return co_await close_named(deadline);
    const Json answer = co_await session_->execute("query-fdsets", Json::object(), deadline);
    std::vector<std::uint64_t> ours;
    for (const JsonReader& set : JsonReader(answer, "query-fdsets", ErrorCode::qemu_failed).elements())
        for (const JsonReader& fd : set.at("fds").elements())
            if (fd.string_or("opaque", "") == file_name) ours.push_back(set.at("fdset-id").u64());
    for (const std::uint64_t set : ours) {
        Json arguments;
        arguments["fdset-id"] = set;
        (void)co_await session_->execute("remove-fd", std::move(arguments), deadline);
    }
}

async::Task<> Migration::close_named(async::Deadline deadline) {
    Json arguments;
    arguments["fdname"] = file_name;
    try {
        (void)co_await session_->execute("closefd", std::move(arguments), deadline);
    } catch (const CommandError& error) {
        log().debug("{}: {}", quote(session_->name()), error.what());  // it has none, or has used it
    }
}

async::Task<> Migration::run(std::string command, async::Deadline deadline) {
    Json arguments;
    arguments["uri"] = uri_;
    (void)co_await session_->execute(std::move(command), std::move(arguments), deadline);
}

async::Task<> Migration::start(async::Deadline deadline) {
    status_.clear();
    co_await run("migrate", deadline);
}

async::Task<> Migration::start_incoming(async::Deadline deadline) {
    status_.clear();
    co_await run("migrate-incoming", deadline);
}

async::Task<> Migration::cancel(async::Deadline deadline) {
    (void)co_await session_->execute("migrate_cancel", Json::object(), deadline);
}

async::Task<> Migration::wait(async::Deadline deadline) {
    std::exception_ptr timeout;
    if (seen_ == happened_ && !session_->closed())
        co_await async::keep_failure(changed_.wait(deadline, "news of a migration"), timeout);
    seen_ = happened_;
    if (timeout && to_error(timeout).code() != ErrorCode::timeout) std::rethrow_exception(timeout);
}

}  // namespace volchain::qmp
