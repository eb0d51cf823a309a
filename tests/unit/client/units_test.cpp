// SPDX-License-Identifier: MIT
#include "client/units.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

#include "client/usage_error.h"

namespace volchain::client::units_test {
namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

TEST(Size, IsReadWithUnitsOf1024) {
    EXPECT_EQ(parse_size("0"), 0U);
    EXPECT_EQ(parse_size("4096"), 4096U);
    EXPECT_EQ(parse_size("512B"), 512U);
    EXPECT_EQ(parse_size("64k"), 65536U);
    EXPECT_EQ(parse_size("512M"), 512U << 20);
    EXPECT_EQ(parse_size("10G"), 10 * gib);
    EXPECT_EQ(parse_size("10GiB"), 10 * gib);
    EXPECT_EQ(parse_size("1T"), 1024 * gib);
    EXPECT_EQ(parse_size("15E"), std::uint64_t{15} << 60);
    EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
}

TEST(Size, RefusesWhatIsNone) {
    for (const char* text : {"", "G", "-1", "+1", "1.5G", "10GB", "10Gi", "10 G", "10X", "0x10", "10GG",
                             "1e3", "16E", "18446744073709551616", "18014398509481984K"})
        EXPECT_THROW((void)parse_size(text), UsageError) << text;
}

TEST(Duration, IsReadWithItsUnit) {
    EXPECT_EQ(parse_duration("5s"), 5'000'000U);
    EXPECT_EQ(parse_duration("2m"), 120'000'000U);
    EXPECT_EQ(parse_duration("2min"), 120'000'000U);
    EXPECT_EQ(parse_duration("500ms"), 500'000U);
    EXPECT_EQ(parse_duration("7us"), 7U);
    EXPECT_EQ(parse_duration("1h30m"), 5'400'000'000U);
    EXPECT_EQ(parse_duration("1d"), 86'400'000'000U);
}

TEST(Duration, RefusesWhatIsNone) {
    for (const char* text : {"", "5", "s", "5x", "-5s", "5s ", "5 s", "1h30", "1.5s", "99999999999999999d",
                             "18446744073709551615us1us"})
        EXPECT_THROW((void)parse_duration(text), UsageError) << text;
}

TEST(Size, IsShownShortly) {
    EXPECT_EQ(format_size(0), "0B");
    EXPECT_EQ(format_size(1023), "1023B");
    EXPECT_EQ(format_size(1024), "1K");
    EXPECT_EQ(format_size(1536), "1.5K");
    EXPECT_EQ(format_size(64 << 20), "64M");
    // What rounds to 1024 of a unit is one of the next.
    EXPECT_EQ(format_size((std::uint64_t{1} << 20) - 1), "1M");
    EXPECT_EQ(format_size(10 * gib + gib / 4), "10.2G");
    EXPECT_EQ(format_size(UINT64_MAX), "16E");
}

TEST(Duration, IsShownShortly) {
    EXPECT_EQ(format_duration(0), "0us");
    EXPECT_EQ(format_duration(850), "850us");
    EXPECT_EQ(format_duration(2300), "2.3ms");
    EXPECT_EQ(format_duration(999'999), "1s");
    EXPECT_EQ(format_duration(4'200'000), "4.2s");
    EXPECT_EQ(format_duration(59'990'000), "1m");
    EXPECT_EQ(format_duration(200'000'000), "3m 20s");
    EXPECT_EQ(format_duration(3'600'000'000), "1h");
    EXPECT_EQ(format_duration(18'720'000'000), "5h 12m");
    EXPECT_EQ(format_duration(std::uint64_t{76} * 3'600'000'000), "3d 4h");
}

TEST(Time, IsShownInTheLocalZone) {
    const char* const before = std::getenv("TZ");
    const std::string kept = before == nullptr ? "" : before;
    ::setenv("TZ", "XYZ-2", 1);
    ::tzset();
    EXPECT_EQ(format_time(1'774'749'599'000'000), "2026-03-29 03:59:59");
    EXPECT_EQ(format_time(UINT64_MAX), "586524-01-19 10:01:49");
    if (before == nullptr)
        ::unsetenv("TZ");
    else
        ::setenv("TZ", kept.c_str(), 1);
    ::tzset();
}

}  // namespace
}  // namespace volchain::client::units_test
