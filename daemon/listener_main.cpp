// SPDX-License-Identifier: MIT
//
// volchain-listener ADDRESS: listens there and hands the socket over on its standard input, which is a connection to
// volchaind. systemd runs it for the daemon, which has no network (handed_listener.h). Exit status 0 also where it could not
// listen: the daemon is told why.
#include <unistd.h>

#include <exception>
#include <iostream>

#include "daemon/handed_listener.h"

int main(int argc, char** argv) {
    if (argc != 2) {
        std::cerr << "usage: volchain-listener ADDRESS, as volchaind has it run\n";
        return 2;
    }
    try {
        volchain::daemon::hand_over_listener(STDIN_FILENO, argv[1]);
    } catch (const std::exception& error) {
        std::cerr << "volchain-listener: " << error.what() << "\n";
        return 1;
    }
}
