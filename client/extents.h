// SPDX-License-Identifier: MIT
//
// Parts of a disk as the daemon lists them, page by page, put together and shown.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "client/table.h"

namespace volchain::client {

/// (start, length, kind)
using Extents = std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>>;

class ExtentList {
  public:
    /// The next page. What it goes on with where the one before ended becomes one extent.
    void add(const Extents& page);
    /// Where the last one ends; 0 where there is none.
    [[nodiscard]] std::uint64_t end() const;
    [[nodiscard]] const Extents& all() const noexcept { return all_; }
    [[nodiscard]] Table table() const;

  private:
    Extents all_;
};

}  // namespace volchain::client
