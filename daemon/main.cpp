// SPDX-License-Identifier: MIT
//
// volchaind: reads its configuration, sets up the log, runs the daemon. Exit status 0 after SIGTERM, 1 where it could
// not start or lost the bus, 2 for wrong arguments.

#include <sys/stat.h>
#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "async/loop.h"
#include "daemon/daemon.h"
#include "systemd/journal.h"

namespace {

using namespace volchain;

int run(bool verbose) {
    const systemd::LogTarget target = systemd::default_log_target();
    set_log_sink(systemd::log_sink(target, "volchaind"));
    const auto directories = daemon::Directories::from_environment();
    daemon::Config config = daemon::read_config(directories.configuration);
    set_log_level(verbose ? LogLevel::debug : config.log_level);
    async::Loop loop;
    daemon::Daemon daemon(loop.executor(), directories, std::move(config), target);
    loop.run_main(daemon.run());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Owns the qcow2 volume chains of this host's virtual machines; serves org.volchain1 on the system "
        "bus.");
    bool verbose = false;
    app.set_version_flag("--version", "volchaind " VOLCHAIN_VERSION);
    app.add_flag("-v,--verbose", verbose, "log at level debug, whatever the configuration says");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    // A peer that closes its socket must not end the daemon.
    (void)std::signal(SIGPIPE, SIG_IGN);
    (void)::umask(0077);
    try {
        return run(verbose);
    } catch (const std::exception& error) {
        log().error("{}", error.what());
        return 1;
    }
}
