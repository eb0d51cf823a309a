// SPDX-License-Identifier: MIT
#include "async/loop.h"

#include <boost/asio/co_spawn.hpp>

namespace volchain::async {

void Loop::run() {
    context_.run();
}

void Loop::run_main(Task<> main) {
    std::exception_ptr failure;
    asio::co_spawn(context_, std::move(main), [this, &failure](const std::exception_ptr& thrown) {
        failure = thrown;
        stop();
    });
    run();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace volchain::async
