// SPDX-License-Identifier: MIT
#include "daemon/pool_object.h"

#include "storage/disks/create_disk.h"
#include "storage/disks/import_disk.h"
#include "storage/pools/pools.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<PoolObject> PoolObject::table() {
    bus::Interface<PoolObject> table(interface_name(ObjectKind::pool), *this);
    table.method<&PoolObject::create_disk>("CreateDisk", bus::in("name", "size", "options"), bus::out("job"))
        .method<&PoolObject::import_disk>("ImportDisk", bus::in("path", "options"), bus::out("job"))
        .method<&PoolObject::refresh>("Refresh", bus::in(), bus::out("job"))
        .method<&PoolObject::remove>("Remove", bus::in(), bus::out())
        .property<&PoolObject::id>("Id", bus::Change::never)
        .property<&PoolObject::name>("Name", bus::Change::signalled)
        .property<&PoolObject::path>("Path", bus::Change::never)
        .property<&PoolObject::kind>("Kind", bus::Change::never)
        .property<&PoolObject::filesystem>("Filesystem", bus::Change::signalled)
        .property<&PoolObject::capacity>("CapacityBytes", bus::Change::signalled)
        .property<&PoolObject::free>("FreeBytes", bus::Change::silent)
        .property<&PoolObject::reflink>("Reflink", bus::Change::signalled)
        .property<&PoolObject::state>("State", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> PoolObject::create_disk(bus::Call call, Uuid id, std::string name,
                                                     std::uint64_t size, bus::Options options) {
    storage::DiskRequest request(id, std::move(name), size);
    request.image = take_image_options(options, size);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::create_disk(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> PoolObject::import_disk(bus::Call call, Uuid id, std::string path,
                                                     bus::Options options) {
    storage::ImportRequest request(id, std::move(path));
    request.name = options.take<std::string>("name", "");
    request.format = take_word<storage::VolumeFormat>(options, "format");
    request.copy = options.take<bool>("copy", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::import_disk(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> PoolObject::refresh(bus::Call call, Uuid id) {
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::refresh_pool(engine_, id, owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<> PoolObject::remove(bus::Call, Uuid id) {
    co_await storage::remove_pool(engine_, id);
}

std::string PoolObject::name(Uuid id) const {
    return engine_.catalog().pool(id).name;
}
std::string PoolObject::path(Uuid id) const {
    return engine_.catalog().pool(id).path;
}
std::string PoolObject::filesystem(Uuid id) const {
    return engine_.pool_status(id).filesystem;
}
std::uint64_t PoolObject::capacity(Uuid id) const {
    return engine_.pool_status(id).capacity;
}
std::uint64_t PoolObject::free(Uuid id) const {
    return engine_.pool_status(id).free;
}
bool PoolObject::reflink(Uuid id) const {
    return engine_.pool_status(id).reflink;
}
std::string PoolObject::state(Uuid id) const {
    return std::string(word(engine_.pool_status(id).state));
}

}  // namespace volchain::daemon
