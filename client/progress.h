// SPDX-License-Identifier: MIT
//
// Progress: shows on stderr how a job goes: on a terminal one line that is drawn anew, else a line for each
// step. With -q nothing.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "client/output.h"

namespace volchain::client {

/// What a job says of itself.
struct JobStatus {
    std::string kind;
    std::string step;
    std::uint64_t done = 0;
    std::uint64_t total = 0;  ///< 0: there is nothing to count
};

/// "create-disk: format  [=====>     ]  47%  1.2G of 2.5G  310M/s", in at most `columns`. Rate 0: not known.
[[nodiscard]] std::string progress_line(const JobStatus& status, std::uint64_t bytes_per_second,
                                        std::size_t columns);

class Progress {
  public:
    explicit Progress(bool quiet);
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    /// Leaves a clean line.
    ~Progress() { clear(); }

    void show(const JobStatus& status);
    void clear();

  private:
    [[nodiscard]] std::uint64_t rate(const JobStatus& status);

    bool quiet_;
    bool terminal_;
    bool drawn_ = false;
    std::string last_step_;
    /// Where the counting of this total began.
    std::uint64_t counted_total_ = 0;
    std::uint64_t first_done_ = 0;
    std::chrono::steady_clock::time_point first_seen_;
};

}  // namespace volchain::client
