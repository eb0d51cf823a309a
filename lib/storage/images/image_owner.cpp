// SPDX-License-Identifier: MIT
#include "storage/images/image_owner.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

struct stat status_of(int fd, const std::string& path) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    return status;
}

struct stat status_of_image(int pool, const std::string& file, const std::string& path) {
    const UniqueFd image = open_beneath(pool, file, O_RDONLY);
    const struct stat status = status_of(image.get(), path);
    if (!S_ISREG(status.st_mode))
        throw Error(ErrorCode::unsafe_image, "{} is not a regular file", quote(path));
    return status;
}

}  // namespace

void check_plain_file(const std::string& pool, const std::string& file) {
    const UniqueFd directory = open_directory(pool);
    (void)status_of_image(directory.get(), file, pool + "/" + file);
}

async::Identity image_owner(const std::string& pool, const std::string& file) {
    const std::string path = pool + "/" + file;
    const UniqueFd directory = open_directory(pool);
    const struct stat status = status_of_image(directory.get(), file, path);
    if (status.st_uid == 0 && status_of(directory.get(), pool).st_uid != 0)
        throw Error(
            ErrorCode::unsafe_image,
            "image {} is root's, but its pool's directory is not: it is not worked on with root's rights; "
            "give it the owner that its VM runs as",
            quote(path));
    async::Identity owner;
    owner.uid = status.st_uid;
    owner.gid = status.st_gid;
    return owner;
}

}  // namespace volchain::storage
