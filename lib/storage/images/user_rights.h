// SPDX-License-Identifier: MIT
//
// UserRights: the rights that a user has to files, and ActingAs, with which a thread opens files with them instead of ours:
// what a caller names may be any file of the host, and the daemon may read them all (setfsuid(2)). What is open stays open.
// Blocking (users and groups are looked up): for a worker thread.
#pragma once

#include <sys/types.h>

#include <vector>

namespace volchain::storage {

struct UserRights {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> groups;

    /// Throws Unsupported where this process cannot act as that user.
    [[nodiscard]] static UserRights of(uid_t user);
};

/// As long as it lives this thread, and no other one, has those rights to files. Made and destroyed on one thread.
class [[nodiscard]] ActingAs {
  public:
    explicit ActingAs(const UserRights& rights);
    ActingAs(const ActingAs&) = delete;
    ActingAs& operator=(const ActingAs&) = delete;
    ~ActingAs();

  private:
    void give_back() noexcept;

    bool changed_ = false;
    gid_t gid_ = 0;
    std::vector<gid_t> groups_;
};

}  // namespace volchain::storage
