// SPDX-License-Identifier: MIT
#include "daemon/export_object.h"

#include "daemon/bound_exports.h"
#include "storage/exports/export_server.h"
#include "storage/exports/stop_export.h"

namespace volchain::daemon {

using storage::ExportKind;
using storage::ObjectKind;

namespace {

/// Longer than any backup, and not so long that a sum of times could overflow.
constexpr std::chrono::microseconds longest_life = std::chrono::hours(24) * 366;

/// None for 0: without end.
std::optional<std::chrono::microseconds> time_to_live(std::string_view what, std::uint64_t usec) {
    if (usec > static_cast<std::uint64_t>(longest_life.count()))
        throw Error(ErrorCode::invalid_argument, "{}: {} is more than {}, a year", what, usec,
                    longest_life.count());
    if (usec == 0) return std::nullopt;
    return std::chrono::microseconds(usec);
}

bool may_open(const storage::ExportRecord& record, uid_t user) {
    return user == 0 || user == record.owner_uid || user == record.allowed_uid;
}

}  // namespace

async::Task<storage::ExportRequest> take_export_request(const bus::Connection& bus, bus::Call call,
                                                        bus::Options options) {
    storage::ExportRequest request = co_await take_nbd_request(bus, call, options);
    request.kind = take_word<ExportKind>(options, "kind").value_or(ExportKind::nbd);
    request.writable = options.take<bool>("writable", false);
    request.since = options.take<std::string>("since", "");
    request.appliance = take_id(options, "vm", ObjectKind::vm).value_or(Uuid());
    request.serial = options.take<std::string>("serial", "");
    options.finish();
    co_return request;
}

async::Task<storage::ExportRequest> take_nbd_request(const bus::Connection& bus, bus::Call call,
                                                     bus::Options& options) {
    storage::ExportRequest request(0);
    request.time_to_live = time_to_live("option 'ttl-usec'", options.take<std::uint64_t>("ttl-usec", 0));
    request.allowed_uid = options.take<std::uint32_t>("allow-uid");
    request.max_connections = options.take<std::uint32_t>("max-connections", 0);
    request.address = options.take<std::string>("address", "");
    request.tls_credentials = options.take<std::string>("tls-credentials", "");
    const bool bound = options.take<bool>("bind-to-caller", false);
    request.owner_uid = co_await call.sender_uid();
    if (bound) request.caller = caller_mark(bus, call.sender());
    co_return request;
}

bus::Interface<ExportObject> ExportObject::table() {
    bus::Interface<ExportObject> table(interface_name(ObjectKind::exported), *this);
    table.method<&ExportObject::open>("Open", bus::in(), bus::out("socket"))
        .method<&ExportObject::renew>("Renew", bus::in("ttl"), bus::out())
        .method<&ExportObject::stop>("Stop", bus::in("options"), bus::out("job"))
        .property<&ExportObject::id>("Id", bus::Change::never)
        .property<&ExportObject::kind>("Kind", bus::Change::never)
        .property<&ExportObject::state>("State", bus::Change::signalled)
        .property<&ExportObject::volume>("Volume", bus::Change::never)
        .property<&ExportObject::disk>("Disk", bus::Change::never)
        .property<&ExportObject::snapshot>("Snapshot", bus::Change::never)
        .property<&ExportObject::writable>("Writable", bus::Change::never)
        .property<&ExportObject::uri>("Uri", bus::Change::signalled)
        .property<&ExportObject::path>("Path", bus::Change::never)
        .property<&ExportObject::bitmap>("Bitmap", bus::Change::signalled)
        .property<&ExportObject::backup>("Backup", bus::Change::never)
        .property<&ExportObject::appliance>("Appliance", bus::Change::never)
        .property<&ExportObject::device>("Device", bus::Change::never)
        .property<&ExportObject::owner>("OwnerUid", bus::Change::never)
        .property<&ExportObject::expires>("ExpiresUsec", bus::Change::signalled)
        .property<&ExportObject::connections>("Connections", bus::Change::silent);
    return table;
}

async::Task<bus::UnixFd> ExportObject::open(bus::Call call, Uuid id) {
    const uid_t user = co_await call.sender_uid();
    if (!may_open(record(id), user))
        throw Error(ErrorCode::access_denied, "{} is for user {} alone",
                    engine_.catalog().describe({ObjectKind::exported, id}),
                    record(id).allowed_uid.value_or(record(id).owner_uid));
    UniqueFd connected = co_await storage::open_export(engine_, id);
    co_return bus::UnixFd(std::move(connected));
}

async::Task<> ExportObject::renew(bus::Call, Uuid id, std::uint64_t ttl) {
    co_await storage::renew_export(engine_, id, time_to_live("argument 'ttl'", ttl));
}

async::Task<bus::ObjectPath> ExportObject::stop(bus::Call call, Uuid id, bus::Options options) {
    const auto timeout = take_timeout(options, "timeout-usec");
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    storage::StopExportRequest request(id, owner);
    request.timeout = timeout;
    const Uuid job = co_await storage::stop_export(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

std::string ExportObject::kind(Uuid id) const {
    return std::string(word(record(id).kind));
}
std::string ExportObject::state(Uuid id) const {
    return std::string(word(record(id).state));
}
bus::ObjectPath ExportObject::volume(Uuid id) const {
    return object_path(ObjectKind::volume, record(id).volume);
}
bus::ObjectPath ExportObject::disk(Uuid id) const {
    return object_path(ObjectKind::disk, record(id).disk);
}
bus::ObjectPath ExportObject::snapshot(Uuid id) const {
    return object_path(ObjectKind::snapshot, record(id).snapshot);
}
bool ExportObject::writable(Uuid id) const {
    return record(id).writable;
}

std::string ExportObject::uri(Uuid id) const {
    return storage::uri_of_export(engine_, record(id));
}

std::string ExportObject::path(Uuid id) const {
    const storage::ExportPlace place = storage::place_of_export(engine_, id);
    if (record(id).kind == ExportKind::file) return place.file();
    const bool local = record(id).kind == ExportKind::nbd && record(id).address.empty();
    return local ? storage::socket_of_export(engine_, record(id)) : std::string();
}

std::string ExportObject::bitmap(Uuid id) const {
    return record(id).bitmap;
}
bus::ObjectPath ExportObject::backup(Uuid id) const {
    return object_path(ObjectKind::backup, record(id).backup);
}
bus::ObjectPath ExportObject::appliance(Uuid id) const {
    return object_path(ObjectKind::vm, record(id).appliance);
}
std::string ExportObject::device(Uuid id) const {
    return record(id).serial;
}
std::uint32_t ExportObject::owner(Uuid id) const {
    return record(id).owner_uid;
}
std::uint64_t ExportObject::expires(Uuid id) const {
    return to_usec(record(id).expires);
}
std::uint32_t ExportObject::connections(Uuid id) const {
    return engine_.exports().connections(id);
}

}  // namespace volchain::daemon
