// SPDX-License-Identifier: MIT
#include "daemon/handed_listener.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/error.h"

namespace volchain::daemon::handed_listener_test {
namespace {

ErrorCode refusal(int connection, const storage::TcpAddress& address, std::string& text) {
    try {
        (void)take_listener(connection, address);
    } catch (const Error& error) {
        text = error.what();
        return error.code();
    }
    return ErrorCode::cancelled;
}

TEST(HandedListener, Listens) {
    const auto [ours, theirs] = listener_connection();
    hand_over_listener(theirs.get(), "127.0.0.1:0");
    const UniqueFd socket = take_listener(ours.get(), storage::TcpAddress::parse("127.0.0.1:0"));
    int listens = 0;
    socklen_t size = sizeof listens;
    ASSERT_EQ(::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size), 0);
    EXPECT_EQ(listens, 1);
    EXPECT_NE(storage::bound_port(socket.get()), 0);
}

TEST(HandedListener, SaysWhyItDoesNot) {
    const auto [ours, theirs] = listener_connection();
    const auto address = storage::TcpAddress::parse("192.0.2.77:0");
    std::string text;
    hand_over_listener(theirs.get(), address.str());
    EXPECT_EQ(refusal(ours.get(), address, text), ErrorCode::unsupported);
    EXPECT_NE(text.find("no such address"), std::string::npos) << text;
    hand_over_listener(theirs.get(), "localhost:1");
    EXPECT_EQ(refusal(ours.get(), address, text), ErrorCode::invalid_argument);
}

TEST(HandedListener, EndsWithoutAWord) {
    auto [ours, theirs] = listener_connection();
    const auto address = storage::TcpAddress::parse("127.0.0.1:0");
    std::string text;
    EXPECT_EQ(refusal(ours.get(), address, text), ErrorCode::internal);
    theirs.reset();
    EXPECT_EQ(refusal(ours.get(), address, text), ErrorCode::internal);
    EXPECT_NE(text.find("volchain-listener"), std::string::npos) << text;
}

}  // namespace
}  // namespace volchain::daemon::handed_listener_test
