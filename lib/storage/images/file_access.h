// SPDX-License-Identifier: MIT
//
// Who may open an image file: owner, mode, ACL and SELinux label, which a new image takes over from the one that it covers
// or is a copy of. Blocking: run on a worker thread.
#pragma once

namespace volchain::storage {

/// Whatever may open `from` may open `to` afterwards; its owner may write to it, too. Both are open files.
void copy_access(int from, int to);

}  // namespace volchain::storage
