// SPDX-License-Identifier: MIT
//
// Requests: the calls that are being served. Each one becomes a task that passes the gate, looks whether its
// object is still there, runs the handler and replies; a failure on that way becomes an error reply here and
// nowhere else. It belongs to Objects, which finds the handler.
//
// Callers are strangers, so how many of their calls run at once is limited: for each caller, and in all. A
// caller that has nothing running is served even where the total is reached, so that nobody can shut out the
// others; the bus limits the number of callers.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>

#include "async/task_group.h"
#include "systemd/call.h"
#include "systemd/vtable.h"

namespace volchain::bus {

struct Limits {
    /// Calls with Reply::prompt: of all callers, and of one.
    std::size_t total = 512;
    std::size_t per_sender = 64;
    /// Calls with Reply::deferred, of one caller: a manager of many VMs waits for many jobs.
    std::size_t waiting_per_sender = 1000;
};

class Requests {
  public:
    /// `before_reply` runs before each reply is sent.
    Requests(Connection& connection, Gate& gate, Limits limits, std::function<void()> before_reply);

    /// Starts to serve a call of `method` of `object`. Where `exists` is not null, it is asked after the
    /// gate. Both must stay until stop(). False: too many calls run already. Throws Cancelled after stop().
    [[nodiscard]] bool start(const InterfaceTable::Method& method, void* object,
                             const std::function<bool(Uuid)>* exists, Call call);

    /// Refuses new calls, cancels the running ones where they wait (they are answered), returns when all have
    /// ended.
    async::Task<> stop() { return tasks_.stop(); }

    [[nodiscard]] std::size_t size() const noexcept { return tasks_.size(); }

  private:
    /// A place among the running calls.
    class Admission {
      public:
        Admission(Requests& requests, std::string sender, bool prompt);
        Admission(Admission&& other) noexcept;
        Admission& operator=(Admission&&) = delete;
        ~Admission();

      private:
        Requests* requests_;
        std::string sender_;
        bool prompt_;
    };

    async::Task<> serve(const InterfaceTable::Method& method, void* object,
                        const std::function<bool(Uuid)>* exists, Call call, Admission admission);
    void tell_changes() noexcept;
    void reply(const Call& call, const Message& result);
    void reply_failure(const Call& call, const std::exception_ptr& failure) noexcept;

    Connection& connection_;
    Gate& gate_;
    Limits limits_;
    std::function<void()> before_reply_;
    /// The running calls of one caller.
    struct Load {
        std::size_t prompt = 0;
        std::size_t waiting = 0;
    };

    std::size_t prompt_running_ = 0;
    std::map<std::string, Load> load_of_;
    async::TaskGroup tasks_;
};

}  // namespace volchain::bus
