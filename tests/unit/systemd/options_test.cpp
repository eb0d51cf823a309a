// SPDX-License-Identifier: MIT
#include "systemd/options.h"

#include <gtest/gtest.h>

#include <functional>

namespace volchain::bus::options_test {
namespace {

Options with(const std::string& name, const Variant& value) {
    Dict values;
    values.emplace(name, value);
    return Options(std::move(values));
}

std::string failure_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        return error.what();
    }
    return "nothing was thrown";
}

TEST(Options, TakesWhatIsThereAndDefaultsWhatIsNot) {
    Options options = with("speed", std::uint64_t{5});
    EXPECT_EQ(options.take<std::string>("name"), std::nullopt);
    EXPECT_EQ(options.take<bool>("children", true), true);
    EXPECT_EQ(options.take<std::uint64_t>("speed", 9), 5U);
    EXPECT_EQ(options.take<std::uint64_t>("speed"), std::nullopt) << "taken already";
    options.finish();
}

TEST(Options, UnknownKeysAreNamed) {
    EXPECT_EQ(failure_of([] { with("sped", true).finish(); }), "unknown option 'sped'");
    Dict two;
    two.emplace("a", 1);
    two.emplace("b", 1);
    EXPECT_EQ(failure_of([&] { Options(two).finish(); }), "unknown options 'a', 'b'");
}

TEST(Options, WrongTypesAreNamed) {
    EXPECT_EQ(failure_of([] { (void)with("speed", "fast").take<std::uint64_t>("speed"); }),
              "option 'speed' must be of D-Bus type 't', not 's'");
    EXPECT_EQ(failure_of([] {
                  (void)with("disks", std::vector<std::string>{"/a"}).take<std::vector<ObjectPath>>("disks");
              }),
              "option 'disks' must be of D-Bus type 'ao', not 'as'");
    EXPECT_EQ(failure_of([] { (void)with("b", std::uint8_t{1}).take<bool>("b"); }),
              "option 'b' must be of D-Bus type 'b', not 'y'");
}

TEST(Options, AnyIntegerThatFitsIsTaken) {
    EXPECT_EQ(with("n", std::int32_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::uint32_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::int64_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::int16_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::uint16_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::uint8_t{5}).take<std::uint64_t>("n"), 5U);
    EXPECT_EQ(with("n", std::uint64_t{7}).take<std::uint32_t>("n"), 7U);
    EXPECT_EQ(failure_of([] { (void)with("n", std::int32_t{-1}).take<std::uint64_t>("n"); }),
              "option 'n' is out of range for D-Bus type 't'");
    EXPECT_EQ(failure_of([] { (void)with("n", std::uint64_t{1} << 40).take<std::uint32_t>("n"); }),
              "option 'n' is out of range for D-Bus type 'u'");
    EXPECT_EQ(failure_of([] { (void)with("n", true).take<std::uint64_t>("n"); }),
              "option 'n' must be of D-Bus type 't', not 'b'");
}

TEST(Options, OptionsInsideAnOptionNameTheirPlace) {
    Dict snapshot;
    snapshot.emplace("quiesce", 7);
    Options outer = with("snapshot", snapshot);
    Options inner = outer.take<Options>("snapshot").value();
    outer.finish();
    EXPECT_EQ(failure_of([&] { inner.finish(); }), "unknown option 'snapshot.quiesce'");
    EXPECT_EQ(failure_of([&] { (void)inner.take<std::string>("quiesce"); }),
              "option 'snapshot.quiesce' must be of D-Bus type 's', not 'i'");
}

}  // namespace
}  // namespace volchain::bus::options_test
