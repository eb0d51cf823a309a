// SPDX-License-Identifier: MIT
#include "client/held_moment.h"

#include <charconv>
#include <tuple>

#include "base/text.h"
#include "client/patient_calls.h"

namespace volchain::client {
namespace {

constexpr auto abort_limit = std::chrono::seconds(60);

using DiskState = std::tuple<bus::ObjectPath, std::string, std::string>;  // disk, full or incremental, why

}  // namespace

std::string export_name_in(std::string_view uri) {
    const std::size_t scheme = uri.find(":///");
    if (scheme == std::string_view::npos) return {};
    uri.remove_prefix(scheme + 4);
    uri = uri.substr(0, uri.find('?'));
    std::string name;
    for (std::size_t i = 0; i < uri.size(); ++i) {
        unsigned value = 0;
        const char* const digits = uri.data() + i + 1;
        if (uri[i] == '%' && i + 2 < uri.size() &&
            std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
            name += static_cast<char>(value);
            i += 2;
        } else {
            name += uri[i];
        }
    }
    return name;
}

async::Task<> HeldMoment::start(bus::ObjectPath vm, bus::Dict options) {
    options["bind-to-caller"] = true;
    const auto job = co_await work_.session().call<bus::ObjectPath>(vm, "StartBackup", options);
    bus::Dict result = co_await work_.job(job);
    const auto made = result["backup"].get<bus::ObjectPath>();
    if (!made) throw Error(ErrorCode::internal, "the daemon does not say which backup it has begun");
    path_ = *made;
    co_await look();
}

async::Task<> HeldMoment::look() {
    backup_ = co_await work_.session().object(path_);
    const auto states = backup_.value<std::vector<DiskState>>("Disks");
    const auto exports = backup_.references("Exports");
    if (states.empty() || exports.size() != states.size())
        throw Error(ErrorCode::internal, "backup {} has {} disks and {} exports: {}", id_of(path_),
                    states.size(), exports.size(), backup_.text("Problem"));
    for (std::size_t i = 0; i < states.size(); ++i) {
        const auto& [path, kind, why] = states[i];
        const Object disk = co_await work_.session().object(path);
        const Object shown = co_await work_.session().object(exports[i]);
        HeldDisk held;
        held.id = id_of(path);
        held.name = disk.text("Name");
        held.target = disk.text("Target");
        held.bitmap = shown.text("Bitmap");
        held.incremental = kind == "incremental" && !held.bitmap.empty();
        held.why = why;
        held.shown = exports[i];
        held.export_name = export_name_in(shown.text("Uri"));
        disks_.push_back(std::move(held));
    }
}

std::uint64_t HeldMoment::usec() const {
    const std::uint64_t moment = backup_.number("MomentUsec");
    return moment != 0 ? moment : backup_.number("CreatedUsec");
}

async::Task<std::tuple<bus::Variant::Bytes, std::string>> HeldMoment::config() {
    using Config = std::tuple<bus::Variant::Bytes, std::string>;
    auto call = work_.session().call<Config>(path_, "GetConfig");
    co_return co_await std::move(call);
}

async::Task<ImageSockets> HeldMoment::open(std::size_t disk, std::size_t asking, std::size_t copying) {
    ImageSockets sockets;
    for (std::size_t i = 0; i < asking + copying; ++i) {
        UniqueFd socket = co_await open_export(work_, disks_[disk].shown);
        auto& kind = i < asking ? sockets.asking : sockets.copying;
        kind.push_back(std::move(socket));
    }
    co_return sockets;
}

async::Task<bool> HeldMoment::is_there() {
    const Object backup = co_await work_.session().object(path_);
    co_return !backup.properties.empty();
}

async::Task<> HeldMoment::finish() {
    (void)co_await finish_backup(work_, path_);
    path_ = {};
}

async::Task<> HeldMoment::abort() {
    if (path_.none()) co_return;
    std::exception_ptr failure;
    bool there = false;
    co_await async::keep_result(is_there(), there, failure);
    if (failure || !there) co_return;
    bus::ObjectPath job;
    co_await async::keep_result(work_.session().call<bus::ObjectPath>(path_, "Abort"), job, failure);
    if (failure) co_return;
    bus::Dict nothing;
    auto limited = async::with_deadline(work_.job_to_its_end(job), async::after(abort_limit), "the abort");
    co_await async::keep_result(std::move(limited), nothing, failure);
    path_ = {};
}

async::Task<std::string> HeldMoment::problem() {
    if (path_.none()) co_return std::string();
    std::exception_ptr failure;
    Object backup;
    co_await async::keep_result(work_.session().object(path_), backup, failure);
    co_return backup.text("Problem");
}

}  // namespace volchain::client
