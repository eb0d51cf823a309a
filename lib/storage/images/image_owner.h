// SPDX-License-Identifier: MIT
//
// As whom an image is worked on by helpers: as its owner, who can do no more than that one could anyway.
#pragma once

#include <string>

#include "async/process.h"

namespace volchain::storage {

/// Throws UnsafeImage where it is no regular file beneath its pool, or a link leads there. Blocking, as the next one.
void check_plain_file(const std::string& pool, const std::string& file);

/// Owner and group of a regular file, opened beneath its pool and without following links. UnsafeImage where it is
/// root's while the pool's directory is not: whoever has that directory might have put a link or another's file there
/// to have it worked on with root's rights. Blocking: run on a worker thread.
[[nodiscard]] async::Identity image_owner(const std::string& pool, const std::string& file);

}  // namespace volchain::storage
