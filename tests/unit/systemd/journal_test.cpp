// SPDX-License-Identifier: MIT
#include "systemd/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace volchain::systemd::journal_test {
namespace {

TEST(Journal, EntriesHaveFields) {
    const LogFields fields{{"VOLCHAIN_VM", "web 1"}, {"VOLCHAIN_JOB", "a=b\nc"}};
    EXPECT_THAT(journal_fields("volchaind", LogLevel::warning, "two\nlines", fields),
                testing::ElementsAre("MESSAGE=two\nlines", "PRIORITY=4", "SYSLOG_IDENTIFIER=volchaind",
                                     "VOLCHAIN_VM=web 1", "VOLCHAIN_JOB=a=b\nc"));
}

TEST(Journal, IsChosenWhereStderrIsConnectedToIt) {
    struct stat status {};
    ASSERT_EQ(::fstat(STDERR_FILENO, &status), 0);
    (void)::unsetenv("JOURNAL_STREAM");
    EXPECT_EQ(default_log_target(), LogTarget::console);
    (void)::setenv("JOURNAL_STREAM", "1:2", 1);
    EXPECT_EQ(default_log_target(), LogTarget::console);
    (void)::setenv("JOURNAL_STREAM", fmt::format("{}:{}", status.st_dev, status.st_ino).c_str(), 1);
    EXPECT_EQ(default_log_target(), LogTarget::journal);
    (void)::unsetenv("JOURNAL_STREAM");
}

TEST(Journal, TargetsHaveNames) {
    EXPECT_EQ(log_target("journal"), LogTarget::journal);
    EXPECT_EQ(log_target("console"), LogTarget::console);
    EXPECT_EQ(log_target("kmsg"), std::nullopt);
    EXPECT_EQ(name(LogTarget::journal), "journal");
}

TEST(Journal, TheSinkMayBeUsedWhereThereIsNoJournal) {
    const LogSink sink = log_sink(LogTarget::journal, "volchain-test");
    sink(LogLevel::info, "to the journal, if there is one", LogFields{{"VOLCHAIN_VM", "x"}});
}

}  // namespace
}  // namespace volchain::systemd::journal_test
