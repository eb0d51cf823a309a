// SPDX-License-Identifier: MIT
#include "qmp/agent_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace volchain::qmp::agent_stream_test {
namespace {

/// "D" for delimited and "L" for overlong in front of a line's text.
std::vector<std::string> lines_of(AgentStream& stream) {
    std::vector<std::string> all;
    while (const auto line = stream.next())
        all.push_back((line->delimited ? "D" : "") + std::string(line->overlong ? "L" : "") +
                      std::string(line->text));
    return all;
}

struct Case {
    const char* what;
    std::string bytes;
    std::vector<std::string> lines;
    bool mid_line;
};

TEST(AgentStream, CutsWhateverComes) {
    const std::vector<Case> cases{
        {"an answer", "{}\n", {"{}"}, false},
        {"with carriage return", "{}\r\n", {"{}"}, false},
        {"empty lines", "\n\r\n{}\n\n", {"{}"}, false},
        {"delimited", "\xff{}\n{}\n", {"D{}", "{}"}, false},
        {"junk before the delimiter", "{\"ret\xff{}\n", {"D{}"}, false},
        {"lines before the delimiter", "{}\n{\xff\xff{}\n", {"{}", "D{}"}, false},
        {"half a line", "{}\n{\"re", {"{}"}, true},
        {"a delimiter alone", "{}\n\xff", {"{}"}, true},
        {"too long", "0123456789\n{}\n", {"L", "{}"}, false},
        {"too long and delimited",
         "\xff"
         "0123456789\n{}\n",
         {"DL", "{}"},
         false},
        {"too long, then a delimiter", "0123456789abc\xff{}\n", {"D{}"}, false},
        {"too long, without end", "0123456789abcdef", {}, true},
        {"just as long as allowed", "01234567\n", {"01234567"}, false},
    };
    for (const Case& c : cases)
        for (std::size_t size = 1; size <= c.bytes.size(); ++size) {
            AgentStream stream(8);
            std::vector<std::string> all;
            for (std::size_t at = 0; at < c.bytes.size(); at += size) {
                stream.feed(std::string_view(c.bytes).substr(at, size));
                for (std::string& line : lines_of(stream)) all.push_back(std::move(line));
            }
            EXPECT_EQ(all, c.lines) << c.what << ", in pieces of " << size;
            EXPECT_EQ(stream.mid_line(), c.mid_line) << c.what << ", in pieces of " << size;
        }
}

}  // namespace
}  // namespace volchain::qmp::agent_stream_test
