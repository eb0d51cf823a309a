// SPDX-License-Identifier: MIT
#include "daemon/config.h"

#include <toml++/toml.h>
#include <fstream>

#include "daemon/daemon.h"
#include "unit/daemon/shipped.h"
#include "unit/storage/support.h"

namespace volchain::daemon::config_test {
namespace {

using namespace std::chrono_literals;
using storage::expect_error;
using storage::Settings;

class ConfigTest : public testing::Test {
  protected:
    void write(const std::string& name, const std::string& text) const {
        std::filesystem::create_directories(std::filesystem::path(directory_ / name).parent_path());
        std::ofstream(directory_ / name) << text;
    }
    [[nodiscard]] Config read() const { return read_config(directory_ / ""); }
    [[nodiscard]] Config read(const std::string& text) const {
        write("volchain.toml", text);
        return read();
    }
    void expect_refused(const std::string& text, const std::vector<std::string>& parts) const {
        SCOPED_TRACE(text);
        std::vector<std::string> all = parts;
        all.push_back("configuration: " + (directory_ / "volchain.toml"));
        expect_error(ErrorCode::invalid_argument, all, [&] { (void)read(text); });
    }

    qmp::TemporaryDirectory directory_;
};

/// What is to be told apart in a Config, as text.
std::vector<std::string> shown(const Config& config) {
    const Settings& s = config.settings;
    const auto id = [](const std::optional<std::uint32_t>& number) {
        return number ? std::to_string(*number) : "none";
    };
    return {std::string(name(config.log_level)),
            std::to_string(s.keep_finished_jobs.count()),
            id(s.image_uid),
            id(s.image_gid),
            fmt::format("{:04o}", s.image_mode),
            std::to_string(s.agent_sync_timeout.count()),
            std::to_string(s.freeze_timeout.count()),
            std::to_string(s.freeze_limit.count()),
            std::to_string(s.thaw_timeout.count()),
            std::to_string(s.greeting_timeout.count()),
            std::to_string(s.command_timeout.count()),
            std::to_string(s.switch_timeout.count()),
            std::to_string(s.unplug_timeout.count()),
            s.storage_daemon,
            std::to_string(s.pool_check_interval.count()),
            std::to_string(s.catch_up_limit.count()),
            std::to_string(s.scheduled_runs_per_pool)};
}

/// Every key, a value that is not its default, and what becomes of it: shown() at this place is that text.
struct Key {
    std::string name;
    std::string value;
    std::size_t place;
    std::string becomes;
};
const std::vector<Key>& keys() {
    static const std::vector<Key> all{
        {"log.level", "\"debug\"", 0, "debug"},
        {"jobs.keep-finished", "\"2h\"", 1, "7200"},
        {"images.owner", "\"bin\"", 2, "2"},
        {"images.group", "\"12345\"", 3, "12345"},
        {"images.mode", "\"0600\"", 4, "0600"},
        {"quiesce.agent-timeout", "\"1500ms\"", 5, "1500"},
        {"quiesce.freeze-timeout", "\"7s\"", 6, "7000"},
        {"quiesce.freeze-limit", "\"8s\"", 7, "8000"},
        {"quiesce.thaw-timeout", "\"9s\"", 8, "9000"},
        {"qemu.greeting-timeout", "\"1s\"", 9, "1000"},
        {"qemu.command-timeout", "\"1m\"", 10, "60000"},
        {"qemu.switch-timeout", "\"2m\"", 11, "120000"},
        {"qemu.unplug-timeout", "\"5s\"", 12, "5000"},
        {"qemu.storage-daemon", "\"/opt/qsd\"", 13, "/opt/qsd"},
        {"pools.check-interval", "\"30s\"", 14, "30"},
        {"jobs.catch-up-limit", "\"6s\"", 15, "6000"},
        {"schedules.runs-per-pool", "7", 16, "7"},
    };
    return all;
}

/// "[section]\nkey = value\n"
std::string line(const std::string& key, const std::string& value) {
    const std::size_t dot = key.find('.');
    return fmt::format("[{}]\n{} = {}\n", key.substr(0, dot), key.substr(dot + 1), value);
}

TEST_F(ConfigTest, EveryKeyIsTestedHere) {
    std::vector<std::string> tested;
    for (const Key& key : keys()) tested.push_back(key.name);
    EXPECT_THAT(tested, testing::UnorderedElementsAreArray(config_keys()));
    EXPECT_EQ(shown(Config()).size(), tested.size());
}

TEST_F(ConfigTest, EachKeyChangesWhatItNames) {
    const auto defaults = shown(Config());
    for (const Key& key : keys()) {
        SCOPED_TRACE(key.name);
        auto expected = defaults;
        ASSERT_NE(expected.at(key.place), key.becomes) << "that is the default";
        expected.at(key.place) = key.becomes;
        EXPECT_EQ(shown(read(line(key.name, key.value))), expected);
    }
}

TEST_F(ConfigTest, WithoutFilesTheDefaults) {
    EXPECT_EQ(shown(read()), shown(Config()));
    EXPECT_EQ(shown(read_config("/no/such/directory")), shown(Config()));
    EXPECT_EQ(shown(read("# nothing\n")), shown(Config()));
}

TEST_F(ConfigTest, TheShippedFileHasEveryKeyWithItsDefault) {
    EXPECT_EQ(shown(read_config(shipped_configuration)), shown(Config()));
    std::vector<std::string> found;
    for (const auto& [section, content] :
         toml::parse_file(std::string(shipped_configuration) + "/volchain.toml"))
        for (const auto& [key, value] : *content.as_table())
            found.push_back(std::string(section.str()) + "." + std::string(key.str()));
    EXPECT_THAT(found, testing::UnorderedElementsAreArray(config_keys()));
}

TEST_F(ConfigTest, DropInsComeLaterInTheOrderOfTheirNames) {
    write("volchain.toml", "[log]\nlevel = \"err\"\n[quiesce]\nfreeze-timeout = \"1s\"\n");
    write("volchain.toml.d/90-last.toml", "[log]\nlevel = \"debug\"\n");
    write("volchain.toml.d/10-first.toml", "[log]\nlevel = \"warning\"\n[pools]\ncheck-interval = \"5s\"\n");
    write("volchain.toml.d/95-not-read.toml.bak", "[log]\nlevel = \"notice\"\n");
    const Config config = read();
    EXPECT_EQ(config.log_level, LogLevel::debug);
    EXPECT_EQ(config.settings.freeze_timeout, 1s) << "keys that nobody overrides stay";
    EXPECT_EQ(config.settings.pool_check_interval, 5s);

    std::filesystem::remove(directory_ / "volchain.toml");
    EXPECT_EQ(read().settings.freeze_timeout, Settings().freeze_timeout) << "drop-ins do without it";
    write("volchain.toml.d/50-wrong.toml", "[log]\n\nlevel = 5\n");
    expect_error(ErrorCode::invalid_argument, {"50-wrong.toml:3:", "'level'", "[log]"},
                 [&] { (void)read(); });
}

TEST_F(ConfigTest, WhatIsNotKnownIsAnError) {
    expect_refused("[log]\nlevel = \"info\"\nlevle = \"info\"\n",
                   {":3:", "key 'levle' in [log]", "not known"});
    expect_refused("[qemu]\nlevel = \"info\"\n", {"key 'level' in [qemu]", "not known"});
    expect_refused("[logs]\n", {":1:", "[logs]", "not known"});
    expect_refused("[log.more]\nx = 1\n", {"'more'", "not known"});
    expect_refused("level = \"info\"\n", {":1:", "'level'", "not in a section"});
    expect_refused("[[log]]\nlevel = \"info\"\n", {"'log'", "not in a section"});
}

TEST_F(ConfigTest, WhatIsNoTomlIsAnErrorWithItsLine) {
    expect_refused("[log]\nlevel = \n", {":2"});
    expect_refused("[log]\nlevel = \"info\"\nlevel = \"info\"\n", {":3"});
    expect_refused("[log\n", {":1"});
    expect_refused("\xff\xfe", {});
}

TEST_F(ConfigTest, EveryValueIsOfItsType) {
    for (const Key& key : keys())
        for (const char* wrong : {"5", "true", "1.5", "[]", "[\"1s\"]", "{}", "1979-05-27"})
            if (key.name != "schedules.runs-per-pool")
                expect_refused(line(key.name, wrong), {":2:", "must be a string"});
    for (const char* wrong : {"0", "-1", "1001", "\"5\"", "true", "1.5", "[]", "{}", "1979-05-27"})
        expect_refused(line("schedules.runs-per-pool", wrong), {":2:", "must be a number from 1 to 1000"});
}

TEST_F(ConfigTest, Durations) {
    const auto of = [&](const std::string& text) {
        return read(line("quiesce.freeze-timeout", '"' + text + '"')).settings.freeze_timeout;
    };
    EXPECT_EQ(of("1ms"), 1ms);
    EXPECT_EQ(of("90s"), 90s);
    EXPECT_EQ(of("5m"), 5min);
    EXPECT_EQ(of("12h"), 12h);
    EXPECT_EQ(of("3650d"), 24h * 3650);
    for (const char* wrong : {"",
                              "s",
                              "5",
                              "5 s",
                              " 5s",
                              "5s ",
                              "+5s",
                              "-5s",
                              "0s",
                              "0ms",
                              "1.5s",
                              "5S",
                              "5sec",
                              "1h30m",
                              "1us",
                              "3651d",
                              "99999999999999999999s",
                              "9223372036854775807h",
                              "0x5s",
                              "five s"})
        expect_refused(line("quiesce.freeze-timeout", '"' + std::string(wrong) + '"'),
                       {"'freeze-timeout' in [quiesce]", "no duration"});
    for (const char* key : {"jobs.keep-finished", "pools.check-interval"})
        expect_refused(line(key, "\"999ms\""), {"at least a second"});
}

TEST_F(ConfigTest, Levels) {
    for (const LogLevel level :
         {LogLevel::error, LogLevel::warning, LogLevel::notice, LogLevel::info, LogLevel::debug})
        EXPECT_EQ(read(line("log.level", fmt::format("\"{}\"", name(level)))).log_level, level);
    for (const char* wrong : {"", "Info", "error", "7", "info "})
        expect_refused(line("log.level", fmt::format("\"{}\"", wrong)), {"not one of err, warning"});
}

TEST_F(ConfigTest, OwnersAndModes) {
    EXPECT_EQ(read(line("images.owner", "\"root\"")).settings.image_uid, 0U);
    EXPECT_EQ(read(line("images.owner", "\"\"")).settings.image_uid, std::nullopt);
    EXPECT_EQ(read(line("images.group", "\"bin\"")).settings.image_gid, 2U);
    EXPECT_EQ(read(line("images.owner", "\"4294967294\"")).settings.image_uid, 4294967294U);
    // (uid_t)-1 would leave the owner as it is.
    for (const char* wrong : {"no such user", "-1", "4294967295", "4294967296", "1x", " 1"}) {
        expect_refused(line("images.owner", fmt::format("\"{}\"", wrong)), {"no user of this host"});
        expect_refused(line("images.group", fmt::format("\"{}\"", wrong)), {"no group of this host"});
    }
    EXPECT_EQ(read(line("images.mode", "\"640\"")).settings.image_mode, 0640U);
    for (const char* wrong :
         {"", "rw-rw----", "0060", "0400", "0200", "1660", "0888", "0x1ff", "660 ", "-0660"})
        expect_refused(line("images.mode", fmt::format("\"{}\"", wrong)), {"no octal mode"});
}

TEST_F(ConfigTest, Programs) {
    EXPECT_EQ(read(line("qemu.storage-daemon", "\"\"")).settings.storage_daemon, "");
    expect_refused(line("qemu.storage-daemon", "\"qemu-storage-daemon\""), {"absolute path"});
    expect_refused(line("qemu.storage-daemon", "\"./qsd\""), {"absolute path"});
}

/// The environment as systemd sets it.
class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;
    ~Variable() { ::unsetenv(name_); }

  private:
    const char* name_;
};

TEST(DirectoriesTest, ComeFromTheEnvironment) {
    EXPECT_EQ(Directories::from_environment().state, "/var/lib/volchain");
    EXPECT_EQ(Directories::from_environment().runtime, "/run/volchain");
    EXPECT_EQ(Directories::from_environment().configuration, "/etc/volchain");
    const Variable state("STATE_DIRECTORY", "/a");
    const Variable runtime("RUNTIME_DIRECTORY", "/b:/c");
    const Variable configuration("CONFIGURATION_DIRECTORY", "");
    EXPECT_EQ(Directories::from_environment().state, "/a");
    EXPECT_EQ(Directories::from_environment().runtime, "/b") << "the first of several";
    EXPECT_EQ(Directories::from_environment().configuration, "/etc/volchain");
}

}  // namespace
}  // namespace volchain::daemon::config_test
