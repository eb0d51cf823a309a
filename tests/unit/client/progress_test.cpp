// SPDX-License-Identifier: MIT
#include "client/progress.h"

#include <gtest/gtest.h>

namespace volchain::client::progress_test {
namespace {

constexpr std::uint64_t mib = 1 << 20;

TEST(ProgressLine, WithNothingToCount) {
    EXPECT_EQ(progress_line({"create-snapshot", "freeze", 0, 0}, 0, 80), "create-snapshot: freeze");
    EXPECT_EQ(progress_line({"create-snapshot", "", 0, 0}, 0, 80), "create-snapshot");
}

TEST(ProgressLine, BarFiguresAndRate) {
    EXPECT_EQ(progress_line({"create-disk", "format", 25 * mib, 100 * mib}, 0, 60),
              "create-disk: format  [====>             ]   25%  25M of 100M");
    EXPECT_EQ(progress_line({"create-disk", "format", 100 * mib, 100 * mib}, 310 * mib, 120),
              "create-disk: format  [======================================]  100%  100M of 100M  310M/s");
    EXPECT_EQ(progress_line({"create-disk", "format", 0, 100 * mib}, 0, 60),
              "create-disk: format  [>                  ]    0%  0B of 100M");
    // The total may lag behind.
    EXPECT_EQ(progress_line({"x", "y", 200, 100}, 0, 40), "x: y  [============]  100%  200B of 100B");
}

TEST(ProgressLine, FitsTheTerminal) {
    EXPECT_EQ(progress_line({"create-disk", "format", 25 * mib, 100 * mib}, 0, 45),
              "create-disk: format   25%  25M of 100M");
    EXPECT_EQ(progress_line({"create-disk", "format", 25 * mib, 100 * mib}, 0, 10), "create-dis");
    EXPECT_EQ(progress_line({"create-disk", "format", 25 * mib, 100 * mib}, 0, 0), "");
}

}  // namespace
}  // namespace volchain::client::progress_test
