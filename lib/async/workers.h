// SPDX-License-Identifier: MIT
//
// Workers: a few threads for calls that block (database, fsync, directory walks). The function runs on one of
// them, the coroutine goes on with its result on the event loop. The function owns all it uses: it runs to
// its end even when nobody waits for it any more.
#pragma once

#include <atomic>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>

#include "async/one_shot.h"

namespace volchain::async {

class Workers {
  public:
    explicit Workers(std::size_t threads) : pool_(std::make_unique<asio::thread_pool>(threads)) {}
    /// Waits for what runs, but not for ever for calls that hang in the kernel: their threads are left behind, and
    /// their results dropped.
    ~Workers() {
        const Deadline end = after(patience);
        while (state_->running > 0 && Clock::now() < end)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        state_->abandoned = state_->running > 0;
        if (state_->abandoned)
            (void)pool_.release();
        else
            pool_->join();
    }
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    /// Runs `work` on a thread; its result or exception comes back here. `work` is moved into the pool before
    /// the first suspension, so name it in a statement of its own and std::move() it in.
    template <typename Work>
    Task<std::invoke_result_t<Work&>> run(Work work) {
        using Result = std::invoke_result_t<Work&>;
        using Value = std::conditional_t<std::is_void_v<Result>, std::monostate, Result>;
        auto answer = std::make_shared<OneShot<Value>>();
        auto executor = co_await asio::this_coro::executor;
        ++state_->running;
        auto job = [answer, executor, state = state_, work = std::move(work)]() mutable {
            std::exception_ptr failure;
            std::optional<Value> value;
            try {
                if constexpr (std::is_void_v<Result>) {
                    work();
                    value.emplace();
                } else {
                    value.emplace(work());
                }
            } catch (...) {
                failure = std::current_exception();
            }
            --state->running;
            if (state->abandoned) return;  // the loop may be gone
            asio::post(executor, [answer, failure, value = std::move(value)]() mutable {
                if (failure)
                    (void)answer->fail(failure);
                else
                    (void)answer->deliver(std::move(*value));
            });
        };
        asio::post(*pool_, std::move(job));
        // The limit of a blocking call is the kernel's; giving up on it here would not end it.
        if constexpr (std::is_void_v<Result>)
            (void)co_await answer->wait(no_deadline, "a worker thread");
        else
            co_return co_await answer->wait(no_deadline, "a worker thread");
    }

  private:
    static constexpr auto patience = std::chrono::seconds(5);
    struct State {
        std::atomic<std::size_t> running = 0;  ///< or waiting for a thread
        std::atomic<bool> abandoned = false;
    };

    std::unique_ptr<asio::thread_pool> pool_;
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace volchain::async
