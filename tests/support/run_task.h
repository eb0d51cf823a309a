// SPDX-License-Identifier: MIT
//
// Runs a test's coroutine on a loop of its own, with a limit for the whole test.
#pragma once

#include <chrono>
#include <utility>

#include "async/deadline.h"
#include "async/loop.h"

namespace volchain::async {

inline void run(Task<> test) {
    Loop loop;
    loop.run_main(with_deadline(std::move(test), after(std::chrono::seconds(30)), "the test"));
}

}  // namespace volchain::async
