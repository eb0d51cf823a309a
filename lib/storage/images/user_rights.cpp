// SPDX-License-Identifier: MIT
#include "storage/images/user_rights.h"

#include <grp.h>
#include <pwd.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/log.h"

namespace volchain::storage {
namespace {

constexpr int most_groups = 65536;  // NGROUPS_MAX
constexpr gid_t no_group = 65534;

/// This thread's alone: setgroups(3) of the C library changes those of all threads.
void set_groups(const std::vector<gid_t>& groups) {
    if (::syscall(SYS_setgroups, groups.size(), groups.data()) < 0)
        throw system_error(errno, "cannot take the groups of a user");
}

std::vector<gid_t> own_groups() {
    std::vector<gid_t> groups(most_groups);
    const int count = ::getgroups(most_groups, groups.data());
    if (count < 0) throw system_error(errno, "cannot read the groups of this process");
    groups.resize(static_cast<std::size_t>(count));
    return groups;
}

/// Neither call says whether it could: what it returns is what was before.
void set_file_ids(uid_t uid, gid_t gid) {
    (void)::setfsgid(gid);
    (void)::setfsuid(uid);
    const auto now_uid = static_cast<uid_t>(::setfsuid(static_cast<uid_t>(-1)));
    const auto now_gid = static_cast<gid_t>(::setfsgid(static_cast<gid_t>(-1)));
    if (now_uid != uid || now_gid != gid)
        throw Error(ErrorCode::internal,
                    "cannot take the rights of user {}: CAP_SETUID or CAP_SETGID is missing", uid);
}

}  // namespace

UserRights UserRights::of(uid_t user) {
    UserRights rights;
    rights.uid = user;
    // Who is root may do what a daemon that is not may do, too.
    if (user == ::geteuid() || user == 0) return rights;
    if (::geteuid() != 0)
        throw Error(ErrorCode::unsupported,
                    "only a daemon that runs as root can open files with the rights of user {}", user);
    rights.gid = no_group;
    std::vector<char> space(65536);
    passwd entry{};
    passwd* found = nullptr;
    if (::getpwuid_r(user, &entry, space.data(), space.size(), &found) != 0 || found == nullptr)
        return rights;
    rights.gid = found->pw_gid;
    int count = most_groups;
    rights.groups.resize(most_groups);
    if (::getgrouplist(found->pw_name, found->pw_gid, rights.groups.data(), &count) < 0) count = 0;
    rights.groups.resize(static_cast<std::size_t>(count));
    return rights;
}

ActingAs::ActingAs(const UserRights& rights) {
    if (rights.uid == ::geteuid() || ::geteuid() != 0) return;
    gid_ = ::getegid();
    groups_ = own_groups();
    changed_ = true;
    try {
        set_groups(rights.groups);
        set_file_ids(rights.uid, rights.gid);
    } catch (...) {
        give_back();
        throw;
    }
}

ActingAs::~ActingAs() {
    if (changed_) give_back();
}

void ActingAs::give_back() noexcept {
    try {
        set_file_ids(::geteuid(), gid_);
        set_groups(groups_);
    } catch (const std::exception& error) {
        // A worker with the rights of somebody else must not go on.
        log().error("{}", error.what());
        std::abort();
    }
}

}  // namespace volchain::storage
