// SPDX-License-Identifier: MIT
#include "qmp/line_splitter.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace volchain::qmp::line_splitter_test {
namespace {

std::vector<std::string> lines_of(LineSplitter& lines) {
    std::vector<std::string> all;
    while (const auto line = lines.next()) all.emplace_back(*line);
    return all;
}

TEST(LineSplitter, GivesLinesHoweverTheyAreCut) {
    const std::string stream = "one\r\ntwo\n\nthree\r\nha";
    for (std::size_t size = 1; size <= stream.size(); ++size) {
        LineSplitter lines(100);
        std::vector<std::string> all;
        for (std::size_t at = 0; at < stream.size(); at += size) {
            lines.feed(std::string_view(stream).substr(at, size));
            for (std::string& line : lines_of(lines)) all.push_back(std::move(line));
        }
        EXPECT_EQ(all, (std::vector<std::string>{"one", "two", "", "three"})) << size;
        lines.feed("lf\n");
        EXPECT_EQ(lines_of(lines), std::vector<std::string>{"half"}) << size;
    }
}

TEST(LineSplitter, StopsAtALineThatIsTooLong) {
    LineSplitter lines(5);
    lines.feed("12345\n123456\n1\n");
    EXPECT_EQ(lines_of(lines), std::vector<std::string>{"12345"});
    EXPECT_TRUE(lines.overlong());
    lines.feed("1\n");
    EXPECT_EQ(lines.next(), std::nullopt);
}

TEST(LineSplitter, StopsBeforeTheEndOfALineThatIsTooLong) {
    LineSplitter lines(5);
    lines.feed("12345");
    EXPECT_EQ(lines.next(), std::nullopt);
    EXPECT_FALSE(lines.overlong());
    lines.feed("6");
    EXPECT_EQ(lines.next(), std::nullopt);
    EXPECT_TRUE(lines.overlong());
}

}  // namespace
}  // namespace volchain::qmp::line_splitter_test
