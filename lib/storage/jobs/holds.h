// SPDX-License-Identifier: MIT
//
// Holds: which volumes are being read by something that needs them as they are (a clone, a checksum), so that no operation
// writes to one of them or removes it. Several may hold the same volume; nobody who only reads waits for anybody. The Engine
// owns it; it is not stored, as what reads is begun anew after a crash, or undone.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "storage/jobs/locks.h"

namespace volchain::storage {

class Holds {
  public:
    /// A hold on a set of volumes, until it goes out of scope.
    class [[nodiscard]] Hold {
      public:
        Hold() = default;
        Hold(Hold&& other) noexcept : holds_(std::exchange(other.holds_, nullptr)), number_(other.number_) {}
        Hold& operator=(Hold&& other) noexcept {
            release();
            holds_ = std::exchange(other.holds_, nullptr);
            number_ = other.number_;
            return *this;
        }
        ~Hold() { release(); }
        void release() noexcept {
            if (holds_ != nullptr) holds_->all_.erase(number_);
            holds_ = nullptr;
        }

      private:
        friend class Holds;
        Hold(Holds& holds, std::uint64_t number) : holds_(&holds), number_(number) {}
        Holds* holds_ = nullptr;
        std::uint64_t number_ = 0;
    };

    Holds(const Catalog& catalog, const Locks& locks) : catalog_(catalog), locks_(locks) {}
    Holds(const Holds&) = delete;
    Holds& operator=(const Holds&) = delete;

    /// `holder`: how others are told of the owner. Busy where an operation is at work on one of the disks that may do away
    /// with volumes.
    Hold take(std::vector<Uuid> volumes, std::string holder);
    [[nodiscard]] bool held(const Uuid& volume) const;
    /// Busy where one of them is held: "volume ... is being read by clone-snapshot, job ...".
    void check_free(const std::set<Uuid>& volumes) const;

  private:
    struct Entry {
        std::vector<Uuid> volumes;
        std::string holder;
    };
    const Catalog& catalog_;
    const Locks& locks_;
    std::map<std::uint64_t, Entry> all_;
    std::uint64_t last_ = 0;
};

}  // namespace volchain::storage
