// SPDX-License-Identifier: MIT
#include "client/export_files.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/text.h"
#include "client/guestfish.h"
#include "client/job_wait.h"
#include "client/terminal_text.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    std::string line;
    while (std::getline(stream, line))
        if (!line.empty()) lines.push_back(line);
    return lines;
}

/// Those that can be mounted.
std::vector<std::string> file_systems(Guestfish& guestfish) {
    std::vector<std::string> found;
    for (const auto& [device, kind] : guestfish_pairs(guestfish.run({"list-filesystems"})))
        if (kind != "swap" && kind != "unknown") found.push_back(device);
    return found;
}

/// The guest's file systems where the guest has them.
bool mount_system(Guestfish& guestfish) {
    const std::vector<std::string> roots = lines_of(guestfish.run({"inspect-os"}));
    if (roots.size() != 1) return false;
    Pairs places = guestfish_pairs(guestfish.run({"inspect-get-mountpoints", roots.front()}));
    std::sort(places.begin(), places.end(),
              [](const auto& a, const auto& b) { return a.first.size() < b.first.size(); });
    for (const auto& [place, device] : places) (void)guestfish.run({"mount-ro", device, place});
    return !places.empty();
}

void mount_what_there_is(Guestfish& guestfish, const std::optional<std::string>& wanted) {
    if (!wanted && mount_system(guestfish)) return;
    const std::vector<std::string> found = file_systems(guestfish);
    if (wanted && std::find(found.begin(), found.end(), *wanted) == found.end())
        throw Error(ErrorCode::not_found, "the disk has no file system {}; it has: {}", quote(*wanted),
                    found.empty() ? "none" : joined(found, ", "));
    if (!wanted && found.size() != 1)
        throw Error(ErrorCode::invalid_argument, "{}",
                    found.empty() ? std::string("the disk has no file system that can be read")
                                  : "the disk has several file systems; say which one with --filesystem: " +
                                        joined(found, ", "));
    (void)guestfish.run({"mount-ro", wanted.value_or(found.front()), "/"});
}

void show_listing(Session& session, Guestfish& guestfish, const std::string& path) {
    if (session.output().json()) {
        OrderedJson names = OrderedJson::array();
        for (const std::string& name : lines_of(guestfish.run({"ls", path})))
            names.push_back(printable(name));
        session.output().print_json(OrderedJson{{"path", path}, {"names", std::move(names)}});
        return;
    }
    std::string text;
    // A guest has its files' names from anybody.
    for (const std::string& line : lines_of(guestfish.run({"ll", path}))) text += printable(line) + "\n";
    session.output().print_text(text);
}

void use_files(Session& session, const Arguments& arguments, const std::string& socket) {
    Guestfish guestfish(socket);
    (void)guestfish.run({"run"});
    mount_what_there_is(guestfish, arguments.value("filesystem"));
    std::vector<std::string> paths = arguments.words_from(2);
    if (const auto directory = arguments.value("copy-out")) {
        paths.push_back(std::filesystem::absolute(*directory).string());
        paths.insert(paths.begin(), "copy-out");
        (void)guestfish.run(paths);
        return;
    }
    if (paths.empty()) paths.emplace_back("/");
    for (const std::string& path : paths) show_listing(session, guestfish, path);
}

void check(const Arguments& arguments) {
    const std::vector<std::string> paths = arguments.words_from(2);
    for (const std::string& path : paths)
        if (!path.starts_with('/')) throw UsageError("{} is no absolute path in the guest", quote(path));
    const auto directory = arguments.value("copy-out");
    if (directory && paths.empty()) throw UsageError("--copy-out takes the path of what is to be copied");
    if (directory && !std::filesystem::is_directory(*directory))
        throw UsageError("--copy-out: {} is no directory", quote(*directory));
    Guestfish::require();
}

}  // namespace

std::vector<Option> export_files_options() {
    return {{"copy-out", "DIRECTORY", "copy the files and directories there, instead of listing them"},
            {"filesystem", "DEVICE", "look at that one alone, as /dev/sda1"}};
}

async::Task<> export_files(Session& session, Arguments arguments) {
    check(arguments);
    const bus::ObjectPath snapshot = co_await session.find("snapshot", arguments.at(0));
    const bus::ObjectPath disk = co_await session.find("disk", arguments.at(1));
    bus::Dict options;
    // So that it goes also where this program does not come to its end.
    options["bind-to-caller"] = true;
    const auto job = co_await session.call<bus::ObjectPath>(snapshot, "Export", disk, options);
    bus::Dict result = co_await result_of_job(session, job);
    const auto shown = result["export"].get<bus::ObjectPath>();
    if (!shown) throw Error(ErrorCode::internal, "the daemon does not say which export it has made");
    const Object made = co_await session.object(*shown);
    std::exception_ptr failure;
    try {
        use_files(session, arguments, made.text("Path"));
    } catch (...) {
        failure = std::current_exception();
    }
    const bus::Dict none;
    const auto end = co_await session.call<bus::ObjectPath>(*shown, "Stop", none);
    (void)co_await result_of_job(session, end);
    if (failure) std::rethrow_exception(failure);
}

}  // namespace volchain::client
