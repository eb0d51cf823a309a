// SPDX-License-Identifier: MIT
//
// volchainctl export: volumes that are shown to backup appliances.
#include "client/export.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <tuple>

#include "base/text.h"
#include "client/export_files.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/relay.h"
#include "client/show.h"
#include "client/units.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

std::optional<std::uint32_t> number_of(const std::string& text) {
    std::uint32_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data(), end, number);
    if (failure != std::errc() || stop != end) return std::nullopt;
    return number;
}

std::uint32_t count_of(const std::string& text) {
    const auto number = number_of(text);
    if (!number) throw UsageError("{} is no number of connections", quote(text));
    return *number;
}

/// "0" stands for "until it is stopped".
std::uint64_t life_of(const std::string& text) {
    return text == "0" ? 0 : parse_duration(text);
}

async::Task<> list_exports(Session& session, Arguments) {
    const Objects objects = co_await session.objects();
    std::vector<const Object*> exports = objects.of_kind("export");
    const auto key = [&objects](const Object* shown) {
        return std::tuple(objects.name(shown->reference("Disk")), shown->text("Id"));
    };
    std::sort(exports.begin(), exports.end(),
              [&key](const Object* a, const Object* b) { return key(a) < key(b); });
    const std::vector<ListColumn> columns{"Id",          "Kind",        "Disk",     "Snapshot", "Writable",
                                          "Connections", "ExpiresUsec", "OwnerUid", "State"};
    session.output().print(list_of("export", objects, exports, columns));
}

async::Task<> create_export(Session& session, Arguments arguments) {
    const bus::Dict options = co_await export_request(session, arguments);
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(1));
    const auto job = co_await session.call<bus::ObjectPath>(snapshot, "Export", disk, options);
    co_await finish_job(session, job, "export");
}

async::Task<> stop_export(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.duration("timeout");
    const auto exports = co_await session.find_all("export", arguments.words_from(0));
    for (const bus::ObjectPath& shown : exports) {
        const auto job = co_await session.call<bus::ObjectPath>(shown, "Stop", options.dict());
        co_await finish_job(session, job);
    }
}

async::Task<> renew_export(Session& session, Arguments arguments) {
    const std::uint64_t ttl = life_of(arguments.at(1));
    const bus::ObjectPath shown = co_await session.find("export", arguments.at(0));
    co_await session.call(shown, "Renew", ttl);
}

async::Task<> open_export(Session& session, Arguments arguments) {
    const bus::ObjectPath shown = co_await session.find("export", arguments.at(0));
    const auto connected = co_await session.call<bus::UnixFd>(shown, "Open");
    relay(STDIN_FILENO, STDOUT_FILENO, connected.get());
}

}  // namespace

std::uint32_t user_of(const std::string& text) {
    if (const auto number = number_of(text)) return *number;
    const struct passwd* const found = ::getpwnam(text.c_str());
    if (found == nullptr) throw UsageError("there is no user {}", quote(text));
    return found->pw_uid;
}

std::vector<Option> export_options() {
    return {{"kind", "nbd|file|device", "over a socket, as a file, or plugged into a VM; nbd if not given"},
            {"writable", "", "let clients write; that goes with the export"},
            {"ttl", "DURATION", "how long it lasts; until it is stopped if not given"},
            {"allow-uid", "USER", "who may connect or read, instead of you"},
            {"since", "CHECKPOINT", "tell what changed since then, as a dirty bitmap"},
            {"max-connections", "NUMBER", "how many clients at a time"},
            {"address", "ADDRESS", "where to listen for TCP, which needs --tls-credentials"},
            {"tls-credentials", "DIRECTORY", "certificates or pre-shared keys for TCP"},
            {"vm", "VM", "the appliance that a device is plugged into"},
            {"serial", "SERIAL", "of the device"}};
}

async::Task<bus::Dict> export_request(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("kind")
        .flag("writable")
        .text("since")
        .text("address")
        .text("tls-credentials")
        .text("serial");
    if (const auto ttl = arguments.value("ttl")) options.set("ttl-usec", life_of(*ttl));
    if (const auto user = arguments.value("allow-uid")) options.set("allow-uid", user_of(*user));
    if (const auto count = arguments.value("max-connections"))
        options.set("max-connections", count_of(*count));
    if (const auto vm = arguments.value("vm")) {
        const bus::ObjectPath appliance = co_await session.find("vm", *vm);
        options.set("vm", appliance);
    }
    co_return options.dict();
}

std::vector<Verb> export_verbs() {
    return {
        {"export", "list", "", "list what is shown to backup appliances", list_exports},
        {"export", "show", "EXPORT", "show all there is to say of an export", show_object},
        {"export", "create", "SNAPSHOT DISK", "show a disk as it was at a snapshot", create_export,
         export_options()},
        {"export",
         "stop",
         "EXPORT...",
         "end exports, and what clients wrote to them",
         stop_export,
         {{"timeout", "DURATION", "how long a guest may take to let go of a device"}}},
        {"export", "renew", "EXPORT DURATION", "let an export last that long from now on; 0 is without end",
         renew_export},
        {"export", "open", "EXPORT", "connect standard input and output to the NBD server", open_export},
        {"export", "files", "SNAPSHOT DISK [PATH...]",
         "list files that a disk had at a snapshot, or copy them out", export_files, export_files_options()},
    };
}

}  // namespace volchain::client
