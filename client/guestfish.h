// SPDX-License-Identifier: MIT
//
// Guestfish: libguestfs' shell, which has a small virtual machine of its own to read a guest's file systems in: no root is
// needed, and the host's kernel mounts nothing. One process per object; it ends with it at the latest. Calls block.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace volchain::client {

class Guestfish {
  public:
    /// Throws NotFound, saying what to install, where there is none in $PATH.
    static void require();

    /// Starts one that may read what is shown at an NBD socket, as a raw disk.
    explicit Guestfish(const std::string& socket);
    Guestfish(const Guestfish&) = delete;
    Guestfish& operator=(const Guestfish&) = delete;
    ~Guestfish();

    /// Runs one of its commands; what it prints. Throws where it fails, after it has said why on standard error.
    std::string run(const std::vector<std::string>& command);

  private:
    void end() noexcept;

    pid_t pid_ = 0;
};

/// "name: value" of each line, as several of its commands print; the last ": " counts.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> guestfish_pairs(const std::string& text);

}  // namespace volchain::client
