// SPDX-License-Identifier: MIT
#include "base/failpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace volchain::failpoint_test {
namespace {

#ifdef VOLCHAIN_FAILPOINTS

/// The end of a child process that passes the failpoint "here" while `order` is given for it.
int status_of_child(const std::string& order) {
    std::string directory = testing::TempDir() + "volchain-failpoint-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) return -1;
    std::ofstream(directory + "/here") << order;
    const pid_t child = ::fork();
    if (child == 0) {
        ::setenv("VOLCHAIN_FAILPOINTS", directory.c_str(), 1);
        try {
            failpoint("there");
            failpoint("here");
        } catch (const Error& error) {
            ::_exit(error.code() == ErrorCode::no_space && std::string(error.what()) == "the disk is full"
                        ? 42
                        : 1);
        }
        ::_exit(0);
    }
    int status = 0;
    (void)::waitpid(child, &status, WUNTRACED);
    if (WIFSTOPPED(status)) {
        (void)::kill(child, SIGKILL);
        (void)::waitpid(child, nullptr, 0);
    }
    std::ifstream passed(directory + "/passed");
    std::string first;
    std::string second;
    passed >> first >> second;
    EXPECT_EQ(first + second, "therehere");
    EXPECT_FALSE(std::filesystem::exists(directory + "/here"));
    std::filesystem::remove_all(directory);
    return status;
}

TEST(Failpoint, ObeysItsOrderOnce) {
    const int killed = status_of_child("kill");
    EXPECT_TRUE(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGKILL) << killed;
    const int stopped = status_of_child("stop");
    EXPECT_TRUE(WIFSTOPPED(stopped)) << stopped;
    const int failed = status_of_child("error NoSpace the disk is full");
    EXPECT_TRUE(WIFEXITED(failed) && WEXITSTATUS(failed) == 42) << failed;
}

#else

TEST(Failpoint, DoesNothingInABuildWithoutThem) {
    EXPECT_NO_THROW(failpoint("here"));
}

#endif

}  // namespace
}  // namespace volchain::failpoint_test
