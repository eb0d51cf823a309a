// SPDX-License-Identifier: MIT
//
// ImageLock: QEMU's own locks on an image file, taken by us, so that a QEMU that starts meanwhile, or
// qemu-img, refuses the image, and so that we refuse one that a QEMU has open. This is how "the VM is down"
// is proved, and kept so.
//
// The protocol is that of block/file-posix.c: open file description locks (fcntl(2)) on byte 100+N for each
// permission N that is held, and on byte 200+N for each that others must not hold. All of them are read
// locks; everybody takes his own first and then looks whether they clash with those of others.
//
// What QEMU 7.2 holds, as measured:
//   a qcow2 node, writable, used or not     holds consistent-read, write and resize; others must not write or
//   resize a qcow2 node, read-only, used or not    holds consistent-read; others must not write or resize. So
//   a backing file
//                                           of a running VM cannot be locked for writing; it can be for
//                                           reading
//   a raw node that somebody uses           as qcow2; a guest device that is resizable may let others resize
//   a raw or file node that nobody uses     nothing: an idle storage daemon does not protect a raw image
//
// All calls block for a moment. Network file systems without such locks fail with Unsupported.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace volchain::qmp {

class ImageLock {
  public:
    /// As a QEMU that writes to the image: nobody else may write to it or resize it, and nobody may mind that
    /// we do. `file` is open for reading at least, `path` is for messages and for finding who stands in the
    /// way. Throws InUse, naming the holder where it can be found.
    [[nodiscard]] static ImageLock take_writer(UniqueFd file, const std::string& path);
    /// As a QEMU that has the image as a backing file: nobody may write to it or resize it.
    [[nodiscard]] static ImageLock take_reader(UniqueFd file, const std::string& path);

    ImageLock(ImageLock&&) noexcept = default;
    ImageLock& operator=(ImageLock&& other) noexcept;
    /// Gives the locks back, also where the descriptor was inherited by somebody.
    ~ImageLock() { release(); }
    void release() noexcept;

    /// The image itself, to work on.
    [[nodiscard]] int fd() const noexcept { return file_.get(); }

  private:
    explicit ImageLock(UniqueFd file) noexcept : file_(std::move(file)) {}
    UniqueFd file_;
};

/// Whether another process holds the image for writing, now. Takes nothing.
[[nodiscard]] bool is_in_use_for_writing(int file);
/// Whether take_writer() would be refused, now. Takes nothing.
[[nodiscard]] bool refuses_writer(int file);

/// A process that holds QEMU's locks on a file.
struct LockHolder {
    pid_t pid = 0;
    std::string command;  ///< "qemu-system-x86"
};

/// Those that can be seen, by /proc/PID/fdinfo: the lock table itself does not tell who has this kind of
/// lock. Looks at every descriptor of every process, so it is for error messages.
[[nodiscard]] std::vector<LockHolder> holders_of(const std::string& path);

}  // namespace volchain::qmp
