// SPDX-License-Identifier: MIT
//
// ProcessKeeper: puts a process out of reach of what ends all processes of the daemon together with it, which is what a
// service manager does. Where there is none, a process that is no child of ours stays by itself.
#pragma once

#include <sys/types.h>

#include <string>

#include "async/task.h"

namespace volchain::storage {

class ProcessKeeper {
  public:
    ProcessKeeper() = default;
    ProcessKeeper(const ProcessKeeper&) = delete;
    ProcessKeeper& operator=(const ProcessKeeper&) = delete;
    virtual ~ProcessKeeper() = default;

    /// `name`: unique, for as long as the process is there; `what`: what people are told that it is.
    virtual async::Task<> keep(pid_t process, std::string name, std::string what) = 0;
};

}  // namespace volchain::storage
