// SPDX-License-Identifier: MIT
#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <system_error>

namespace volchain::error_test {
namespace {

TEST(Error, NameAndCodeAreInverse) {
    for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i) {
        const auto code = static_cast<ErrorCode>(i);
        EXPECT_EQ(error_code(name(code)), code) << name(code);
    }
    EXPECT_EQ(error_code("NoSuchError"), ErrorCode::internal);
}

TEST(Error, TextWithBracesButNoArgumentsIsTakenAsItIs) {
    EXPECT_STREQ(Error(ErrorCode::busy, "{\"a\": 1}").what(), "{\"a\": 1}");
}

TEST(Error, DuringKeepsTheCodeAndPutsTheActivityInFront) {
    const Error error = Error(ErrorCode::no_space, "disk {} is full", 7).during("creating x");
    EXPECT_EQ(error.code(), ErrorCode::no_space);
    EXPECT_STREQ(error.what(), "creating x: disk 7 is full");
}

TEST(Error, CodeFollowsFromErrno) {
    EXPECT_EQ(system_error(ENOSPC, "x").code(), ErrorCode::no_space);
    EXPECT_EQ(system_error(EROFS, "x").code(), ErrorCode::read_only);
    EXPECT_EQ(system_error(ELOOP, "x").code(), ErrorCode::unsafe_image);
    EXPECT_STREQ(system_error(ENOENT, "cannot open 'x'").what(),
                 "cannot open 'x': No such file or directory");
}

TEST(Error, AnyExceptionBecomesAnError) {
    const auto converted = [](auto exception) { return to_error(std::make_exception_ptr(exception)); };
    EXPECT_EQ(converted(Error(ErrorCode::busy, "b")).code(), ErrorCode::busy);
    EXPECT_EQ(converted(std::runtime_error("r")).code(), ErrorCode::internal);
    EXPECT_EQ(converted(std::system_error(std::make_error_code(std::errc::operation_canceled))).code(),
              ErrorCode::cancelled);
    EXPECT_EQ(converted(42).code(), ErrorCode::internal);
}

}  // namespace
}  // namespace volchain::error_test
