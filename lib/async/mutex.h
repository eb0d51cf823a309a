// SPDX-License-Identifier: MIT
//
// Mutex: lets one coroutine at a time through, in the order they came. It orders short steps on one
// connection or file; it is not the lock of an object that users see (those refuse at once and name their
// holder).
#pragma once

#include <list>

#include "async/one_shot.h"

namespace volchain::async {

class Mutex {
  public:
    class [[nodiscard]] Guard {
      public:
        Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
        Guard& operator=(Guard&&) = delete;
        ~Guard() {
            if (mutex_ != nullptr) mutex_->unlock();
        }

      private:
        friend class Mutex;
        explicit Guard(Mutex& mutex) noexcept : mutex_(&mutex) {}
        Mutex* mutex_;
    };

    /// Timeout at the deadline, with `what` as what the caller wanted to do.
    Task<Guard> lock(Deadline deadline, std::string what);

  private:
    using Turn = OneShot<bool>;
    void unlock();

    bool locked_ = false;
    std::list<Turn*> queue_;
};

}  // namespace volchain::async
