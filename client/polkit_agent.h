// SPDX-License-Identifier: MIT
//
// PolkitAgent: pkttyagent(1), which asks for a password on the terminal when polkit wants one and no desktop
// does it. Needed over ssh and on consoles. It runs as long as this lives.
#pragma once

#include <sys/types.h>

#include <memory>

namespace volchain::client {

class PolkitAgent {
  public:
    /// None for root, without a terminal to ask on, and where pkttyagent is not there or does not start.
    /// Returns when the agent is known to polkit, which blocks for a moment, a few seconds at most.
    [[nodiscard]] static std::unique_ptr<PolkitAgent> start();

    PolkitAgent(const PolkitAgent&) = delete;
    PolkitAgent& operator=(const PolkitAgent&) = delete;
    ~PolkitAgent();

  private:
    explicit PolkitAgent(pid_t pid) : pid_(pid) {}

    pid_t pid_;
};

}  // namespace volchain::client
