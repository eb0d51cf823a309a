// SPDX-License-Identifier: MIT
#include "storage/images/file_access.h"

#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

/// False where the model has none.
bool copy_attribute(int from, int to, const char* name) {
    std::vector<char> value(65536);
    const ssize_t size = ::fgetxattr(from, name, value.data(), value.size());
    if (size < 0) {
        if (errno != ENODATA && errno != ENOTSUP)
            throw system_error(errno, fmt::format("cannot read attribute {}", name));
        return false;
    }
    if (::fsetxattr(to, name, value.data(), static_cast<std::size_t>(size), 0) < 0)
        throw system_error(errno, fmt::format("cannot set attribute {}", name));
    return true;
}

/// A model without an ACL gives none, also where the directory has one for new files.
void copy_acl(int from, int to) {
    constexpr const char* name = "system.posix_acl_access";
    if (copy_attribute(from, to, name)) return;
    if (::fremovexattr(to, name) < 0 && errno != ENODATA && errno != ENOTSUP)
        throw system_error(errno, fmt::format("cannot remove attribute {}", name));
}

}  // namespace

void copy_access(int from, int to) {
    struct stat model {};
    struct stat mine {};
    if (::fstat(from, &model) < 0 || ::fstat(to, &mine) < 0)
        throw system_error(errno, "cannot look at the image");
    const bool same_owner = model.st_uid == mine.st_uid && model.st_gid == mine.st_gid;
    if (!same_owner && ::fchown(to, model.st_uid, model.st_gid) < 0)
        throw system_error(errno, fmt::format("cannot give it the owner {}:{}", model.st_uid, model.st_gid));
    copy_acl(from, to);
    // The model may be read-only by mode (a template); the new image is there to be written. After the ACL, whose
    // entry for the owner is that mode too.
    if (::fchmod(to, (model.st_mode & 0777) | S_IRUSR | S_IWUSR) < 0)
        throw system_error(errno, "cannot set its mode");
    (void)copy_attribute(from, to, "security.selinux");
}

}  // namespace volchain::storage
