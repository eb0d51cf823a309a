// SPDX-License-Identifier: MIT
#include "qmp/command_line.h"

#include "support.h"

namespace volchain::qmp::command_line_test {
namespace {

/// "direct no-flush native discard detect=on", as far as it is not the default.
std::string text(const std::optional<NodeOptions>& options) {
    if (!options) return "none";
    std::string words;
    if (options->cache_direct) words += "direct ";
    if (options->cache_no_flush) words += "no-flush ";
    if (options->aio != Aio::threads) words += std::string(word(options->aio)) + " ";
    if (options->discard) words += "discard ";
    if (options->detect_zeroes != DetectZeroes::off)
        words += "detect=" + std::string(word(options->detect_zeroes)) + " ";
    if (!words.empty()) words.pop_back();
    return words;
}

struct Case {
    const char* what;
    Words arguments;
    Words names;
    const char* expected;
};

TEST(CommandLine, Table) {
    const Words separate{
        "-blockdev",
        R"({"driver": "file", "node-name": "f", "filename": "/x/a", "aio": "native", "discard": "unmap",
                             "cache": {"direct": true, "no-flush": false}})",
        "-blockdev",
        R"({"driver": "qcow2", "node-name": "n", "file": "f", "discard": "unmap", "detect-zeroes": "unmap"})"};
    const std::vector<Case> cases{
        {"nothing", {}, {"n"}, "none"},
        {"separate nodes, by name", separate, {"n"}, "direct native discard detect=unmap"},
        {"separate nodes, by file", separate, {"/x/a"}, "direct native discard detect=unmap"},
        {"the file node itself", separate, {"f"}, "direct native discard"},
        {"unknown, then known", separate, {"", "none", "n"}, "direct native discard detect=unmap"},
        {"unknown", separate, {"none"}, "none"},
        {"a discard that the file node ignores",
         {"-blockdev", "file,node-name=f,filename=/x/a", "-blockdev",
          "qcow2,node-name=n,file=f,discard=unmap"},
         {"n"},
         ""},
        {"inside, key=value",
         {"-blockdev",
          "driver=qcow2,node-name=n,discard=unmap,cache.direct=on,file.driver=file,file.filename=/x/"
          "a,,b,file.aio=io_uring"},
         {"/x/a,b"},
         "direct io_uring discard"},
        {"inside, JSON",
         {"-blockdev",
          R"({"driver": "qcow2", "node-name": "n", "cache": {"no-flush": true}, "file": {"driver": "file", "filename": "/x/a", "aio": "io_uring"}})"},
         {"n"},
         "no-flush io_uring"},
        {"the file node inside says otherwise",
         {"-blockdev",
          "driver=qcow2,node-name=n,cache.direct=on,file.driver=file,file.filename=/x/"
          "a,file.cache.direct=off"},
         {"n"},
         ""},
        {"-drive, by file",
         {"-drive", "file=/x/a,if=none,id=d,format=qcow2,cache=none,aio=native,discard=on,detect-zeroes=on"},
         {"/x/a"},
         "direct native discard detect=on"},
        {"-drive, by id", {"--drive", "if=none,id=d,file=/x/a,cache=unsafe"}, {"d"}, "no-flush"},
        {"-drive, cache=directsync", {"-drive", "id=d,file=/x/a,cache=directsync"}, {"d"}, "direct"},
        {"-drive, cache.direct", {"-drive", "id=d,file=/x/a,cache.direct=on"}, {"d"}, "direct"},
        {"-drive, defaults", {"-drive", "id=d,file=/x/a,readonly"}, {"d"}, ""},
        {"-drive with a driver",
         {"-drive", "driver=qcow2,file.driver=file,file.filename=/x/a,file.aio=native"},
         {"/x/a"},
         "native"},
        {"no value", {"-m", "32", "-blockdev"}, {"n"}, "none"},
        {"junk before what counts",
         {"-blockdev", "{\"driver\": ", "-blockdev", "{}", "-blockdev", "", "-drive", ",,=,", "-drive",
          "==", "-blockdev", "{\"node-name\": 7, \"file\": [1]}", "-blockdev", "\xff\xfe{", "-blockdev",
          "qcow2,node-name=n,discard=unmap"},
         {"n"},
         "discard"},
        {"nonsense values",
         {"-blockdev", "qcow2,node-name=n,aio=7,discard=perhaps,detect-zeroes=maybe"},
         {"n"},
         ""},
        {"a node whose file is itself",
         {"-blockdev", "qcow2,node-name=n,file=n,discard=unmap"},
         {"n"},
         "discard"},
        {"in the words of another option",
         {"-name", "-blockdev", "-blockdev", "qcow2,node-name=n"},
         {"n"},
         ""},
    };
    for (const Case& c : cases)
        EXPECT_EQ(text(options_in_command_line(c.arguments, c.names)), c.expected) << c.what;
}

TEST(CommandLine, TellsWhetherThereAreOtherMonitors) {
    using Arguments = std::vector<std::string>;
    const Arguments chardev{"-chardev", "socket,id=m,path=/x", "-mon", "chardev=m,mode=control"};
    const auto with = [&](const Arguments& more) {
        Arguments all = chardev;
        all.insert(all.end(), more.begin(), more.end());
        return all;
    };
    EXPECT_TRUE(one_qmp_monitor(chardev));
    EXPECT_TRUE(one_qmp_monitor({"-qmp", "unix:/x,server=on"}));
    EXPECT_TRUE(one_qmp_monitor({"-mon", "m,mode=control,pretty=on"}));
    EXPECT_TRUE(
        one_qmp_monitor(with({"-monitor", "stdio", "-mon", "chardev=h", "-mon", "chardev=r,mode=readline"})));
    EXPECT_FALSE(one_qmp_monitor(with({"-qmp", "tcp::1"})));
    EXPECT_FALSE(one_qmp_monitor(with({"--qmp-pretty", "tcp::1"})));
    EXPECT_FALSE(one_qmp_monitor(with(chardev)));
    EXPECT_FALSE(one_qmp_monitor(with({"-readconfig", "/x"})));
    EXPECT_FALSE(one_qmp_monitor(with({"-set", "mon.m.mode=control"})));
    EXPECT_FALSE(one_qmp_monitor({"-monitor", "stdio"}));
    EXPECT_FALSE(one_qmp_monitor({}));
}

TEST(CommandLine, OfAProcess) {
    const std::vector<std::string> own = command_line_of(::getpid());
    EXPECT_FALSE(own.empty());
    EXPECT_NE(own.front().find("unit-qmp"), std::string::npos);
    EXPECT_TRUE(command_line_of(0x7fffffff).empty());
}

Task<> of_a_running_qemu() {
    const TemporaryDirectory directory;
    create_image(directory / "a,b", "qcow2", "1M");
    const Words options{
        "-drive", "file=" + (directory / "a,,b") + ",if=none,id=d,format=qcow2,cache=none,discard=unmap"};
    const auto qemu = co_await Qemu::start(directory, options);
    const auto arguments = command_line_of(qemu->session->peer()->pid());
    EXPECT_EQ(text(options_in_command_line(arguments, {directory / "a,b"})), "direct discard");
}
TEST(CommandLine, OfARunningQemu) {
    async::run(of_a_running_qemu());
}

}  // namespace
}  // namespace volchain::qmp::command_line_test
