// SPDX-License-Identifier: MIT
//
// volchainctl pool: directories in which images live.
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

Cell used_part(const Object& pool) {
    const std::uint64_t capacity = pool.number("CapacityBytes");
    if (capacity == 0) return {};
    return Cell::percent(100 -
                         100 * static_cast<double>(pool.number("FreeBytes")) / static_cast<double>(capacity));
}

async::Task<> list_pools(Session& session, Arguments) {
    const Objects objects = co_await session.objects();
    const std::vector<ListColumn> columns{
        "Name", "Path", "Filesystem", "CapacityBytes", "FreeBytes", {"Used", used_part}, "Reflink", "State"};
    session.output().print(list_of("pool", objects, objects.of_kind("pool"), columns));
}

async::Task<> create_pool(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.flag("create");
    const auto pool = co_await session.call_manager<bus::ObjectPath>("CreatePool", arguments.at(0),
                                                                     arguments.at(1), options.dict());
    co_await print_made(session, pool);
}

async::Task<> refresh_pool(Session& session, Arguments arguments) {
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(pool, "Refresh");
    co_await finish_job(session, job);
}

async::Task<> remove_pool(Session& session, Arguments arguments) {
    const bus::ObjectPath pool = co_await session.find("pool", arguments.at(0));
    co_await session.call(pool, "Remove");
}

}  // namespace

std::vector<Verb> pool_verbs() {
    return {
        {"pool", "list", "", "list the pools", list_pools},
        {"pool", "show", "POOL", "show all there is to say of a pool", show_object},
        {"pool",
         "create",
         "NAME DIRECTORY",
         "make a directory a pool",
         create_pool,
         {{"create", "", "make the directory, too"}}},
        {"pool", "refresh", "POOL", "read the headers of the pool's images again", refresh_pool},
        {"pool", "remove", "POOL", "forget a pool; no file is touched", remove_pool},
    };
}

}  // namespace volchain::client
