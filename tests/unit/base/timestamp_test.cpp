// SPDX-License-Identifier: MIT
#include "base/timestamp.h"

#include <gtest/gtest.h>

namespace volchain::timestamp_test {
namespace {

TEST(Timestamp, Utc) {
    EXPECT_EQ(format_utc(from_usec(0)), "1970-01-01T00:00:00Z");
    EXPECT_EQ(format_utc(from_usec(1'774'749'599'999'999)), "2026-03-29T01:59:59Z");
}

TEST(Timestamp, MicrosecondsBothWays) {
    EXPECT_EQ(to_usec(from_usec(1'774'749'599'123'456)), 1'774'749'599'123'456U);
    EXPECT_GT(to_usec(now()), 1'700'000'000'000'000U);
}

}  // namespace
}  // namespace volchain::timestamp_test
