// SPDX-License-Identifier: MIT
#include "daemon/unit_keeper.h"

#include <linux/capability.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "daemon/handed_listener.h"
#include "qmp/program.h"
#include "systemd/transient_unit.h"

namespace volchain::daemon {
namespace {

using systemd::TransientService;

constexpr auto unit_limit = std::chrono::seconds(25);
/// A client each takes one.
constexpr std::uint64_t max_open_files = 1024;

/// SystemCallFilter=, RestrictAddressFamilies= and the like: a list of what is allowed.
bus::Variant only(std::vector<std::string> allowed) {
    return {std::pair<bool, std::vector<std::string>>(true, std::move(allowed))};
}

constexpr std::uint64_t bit(int capability) {
    return std::uint64_t{1} << capability;
}

/// What no such process needs, and what can be withheld without giving it a file system view of its own: what is mounted in
/// one of those nobody else sees.
void confine(TransientService& service, std::uint64_t capabilities) {
    service.set("CapabilityBoundingSet", capabilities)
        .set("NoNewPrivileges", true)
        .set("RestrictNamespaces", std::uint64_t{0})
        .set("RestrictRealtime", true)
        .set("RestrictSUIDSGID", true)
        .set("LockPersonality", true)
        .set("MemoryDenyWriteExecute", true)
        .set("SystemCallArchitectures", std::vector<std::string>{"native"})
        .set("UMask", std::uint32_t{0077})
        .set("LimitNOFILE", max_open_files)
        .set("StandardError", "journal");
}

TransientService mounting_service(const storage::MountingProcess& process) {
    TransientService service(process.name, process.what, process.argv);
    confine(service, bit(CAP_SYS_ADMIN));
    using Device = std::pair<std::string, std::string>;
    service.set("Type", "exec")
        .hand("StandardInput", process.input)
        .hand("StandardOutput", process.output)
        .set("RestrictAddressFamilies", only({"AF_UNIX"}))
        .set("SystemCallFilter", only({"@system-service", "mount", "umount2"}))
        .set("DevicePolicy", "closed")
        .set("DeviceAllow", std::vector<Device>{Device("/dev/fuse", "rw")})
        // Its own end unmounts; a kill does not.
        .afterwards({qmp::find_program("umount"), "--lazy", "--no-canonicalize", process.mountpoint});
    return service;
}

std::string listener_program() {
    return std::filesystem::read_symlink("/proc/self/exe").replace_filename("volchain-listener").string();
}

TransientService listening_service(const std::string& name, const storage::TcpAddress& address, int socket) {
    TransientService service(name, "Listens on " + address.str(), {listener_program(), address.str()});
    confine(service, bit(CAP_NET_BIND_SERVICE));
    service.set("Type", "oneshot")
        .hand("StandardInput", socket)
        .set("DynamicUser", true)
        .set("AmbientCapabilities", bit(CAP_NET_BIND_SERVICE))
        .set("ProtectHome", "yes")
        .set("PrivateDevices", true)
        .set("ProtectProc", "invisible")
        .set("ProcSubset", "pid")
        .set("RestrictAddressFamilies", only({"AF_UNIX", "AF_INET", "AF_INET6"}))
        .set("SystemCallFilter", only({"@system-service"}));
    return service;
}

}  // namespace

async::Task<> UnitKeeper::keep(pid_t process, std::string name, std::string what) {
    return systemd::move_to_scope(bus_, process, std::move(name), std::move(what), async::after(unit_limit));
}

async::Task<> UnitKeeper::start(storage::MountingProcess process) {
    co_await systemd::start_service(bus_, mounting_service(process), async::after(unit_limit));
}

async::Task<> UnitKeeper::end(std::string name) {
    return systemd::stop_unit(bus_, name + ".service", async::after(unit_limit));
}

async::Task<UniqueFd> UnitKeeper::listen(std::string name, storage::TcpAddress address) {
    auto [ours, theirs] = listener_connection();
    TransientService service = listening_service(name, address, theirs.get());
    theirs.reset();
    co_await systemd::start_service(bus_, std::move(service), async::after(unit_limit));
    co_return take_listener(ours.get(), address);
}

}  // namespace volchain::daemon
