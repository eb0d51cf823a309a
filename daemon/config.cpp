// SPDX-License-Identifier: MIT
#include "daemon/config.h"

#include <grp.h>
#include <pwd.h>

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace volchain::daemon {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

[[noreturn]] void refuse(const std::string& what, std::string_view why) {
    throw Error(ErrorCode::invalid_argument, "configuration: {} {}", what, why);
}

// --- values ----------------------------------------------------------------------------------------------------------

std::string text_of(const toml::node& node, const std::string& where) {
    const auto text = node.value<std::string>();
    if (!text || !node.is_string()) refuse(where, "must be a string");
    return *text;
}

milliseconds duration_of(const toml::node& node, const std::string& where) {
    static const std::map<std::string_view, std::int64_t> units{
        {"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}};
    const std::string text = text_of(node, where);
    std::int64_t number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    const auto unit =
        units.find(std::string_view(end, static_cast<std::size_t>(text.data() + text.size() - end)));
    constexpr std::int64_t longest = std::int64_t{10} * 365 * 86'400'000;
    if (failure != std::errc() || unit == units.end() || number < 1 || number > longest / unit->second)
        refuse(where, fmt::format("is {}, which is no duration (\"500ms\", \"10s\", \"5m\", \"12h\", \"1d\")",
                                  quote(text)));
    return milliseconds(number * unit->second);
}

std::uint32_t mode_of(const toml::node& node, const std::string& where) {
    const std::string text = text_of(node, where);
    std::uint32_t mode = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), mode, 8);
    if (failure != std::errc() || end != text.data() + text.size() || mode > 0777 || (mode & 0600) != 0600)
        refuse(where, fmt::format("is {}, which is no octal mode with which the owner can read and write",
                                  quote(text)));
    return mode;
}

/// A user or group by name or number; none for "".
std::optional<std::uint32_t> account_of(const toml::node& node, const std::string& where, bool group) {
    const std::string text = text_of(node, where);
    if (text.empty()) return std::nullopt;
    std::uint32_t number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    constexpr std::uint32_t nobody_at_all = UINT32_MAX;  // chown(2): leave it as it is
    if (failure == std::errc() && end == text.data() + text.size() && number != nobody_at_all) return number;
    if (group) {
        if (const struct group* found = ::getgrnam(text.c_str())) return found->gr_gid;
    } else if (const struct passwd* found = ::getpwnam(text.c_str())) {
        return found->pw_uid;
    }
    refuse(where, fmt::format("is {}, which is no {} of this host", quote(text), group ? "group" : "user"));
}

LogLevel level_of(const toml::node& node, const std::string& where) {
    const std::string text = text_of(node, where);
    for (const LogLevel level :
         {LogLevel::error, LogLevel::warning, LogLevel::notice, LogLevel::info, LogLevel::debug})
        if (name(level) == text) return level;
    refuse(where, fmt::format("is {}, which is not one of err, warning, notice, info, debug", quote(text)));
}

std::string program_of(const toml::node& node, const std::string& where) {
    std::string text = text_of(node, where);
    if (!text.empty() && !fs::path(text).is_absolute()) refuse(where, "must be an absolute path, or empty");
    return text;
}

// --- keys ------------------------------------------------------------------------------------------------------------

using Reader = std::function<void(Config&, const toml::node&, const std::string& where)>;

template <typename T>
Reader duration(T storage::Settings::*member) {
    return [member](Config& config, const toml::node& node, const std::string& where) {
        config.settings.*member = std::chrono::duration_cast<T>(duration_of(node, where));
    };
}

Reader seconds_at_least_one(std::chrono::seconds storage::Settings::*member) {
    return [member](Config& config, const toml::node& node, const std::string& where) {
        const milliseconds value = duration_of(node, where);
        if (value < std::chrono::seconds(1)) refuse(where, "must be at least a second");
        config.settings.*member = std::chrono::duration_cast<std::chrono::seconds>(value);
    };
}

Reader program(std::string storage::Settings::*member) {
    return [member](Config& config, const toml::node& node, const std::string& where) {
        config.settings.*member = program_of(node, where);
    };
}

unsigned small_number_of(const toml::node& node, const std::string& where) {
    const auto number = node.value<std::int64_t>();
    constexpr std::int64_t largest = 1000;
    if (!number || !node.is_integer() || *number < 1 || *number > largest)
        refuse(where, fmt::format("must be a number from 1 to {}", largest));
    return static_cast<unsigned>(*number);
}

const std::map<std::string, Reader>& readers() {
    using storage::Settings;
    static const std::map<std::string, Reader> all{
        {"log.level",
         [](Config& c, const toml::node& n, const std::string& w) { c.log_level = level_of(n, w); }},
        {"jobs.keep-finished", seconds_at_least_one(&Settings::keep_finished_jobs)},
        {"jobs.catch-up-limit", duration(&Settings::catch_up_limit)},
        {"images.owner", [](Config& c, const toml::node& n,
                            const std::string& w) { c.settings.image_uid = account_of(n, w, false); }},
        {"images.group", [](Config& c, const toml::node& n,
                            const std::string& w) { c.settings.image_gid = account_of(n, w, true); }},
        {"images.mode",
         [](Config& c, const toml::node& n, const std::string& w) { c.settings.image_mode = mode_of(n, w); }},
        {"quiesce.agent-timeout", duration(&Settings::agent_sync_timeout)},
        {"quiesce.freeze-timeout", duration(&Settings::freeze_timeout)},
        {"quiesce.freeze-limit", duration(&Settings::freeze_limit)},
        {"quiesce.thaw-timeout", duration(&Settings::thaw_timeout)},
        {"qemu.greeting-timeout", duration(&Settings::greeting_timeout)},
        {"qemu.command-timeout", duration(&Settings::command_timeout)},
        {"qemu.switch-timeout", duration(&Settings::switch_timeout)},
        {"qemu.unplug-timeout", duration(&Settings::unplug_timeout)},
        {"qemu.storage-daemon", program(&Settings::storage_daemon)},
        {"schedules.runs-per-pool",
         [](Config& c, const toml::node& n, const std::string& w) {
             c.settings.scheduled_runs_per_pool = small_number_of(n, w);
         }},
        {"pools.check-interval", seconds_at_least_one(&Settings::pool_check_interval)},
    };
    return all;
}

bool known_section(const std::string& name) {
    const auto first = readers().lower_bound(name + ".");
    return first != readers().end() && first->first.starts_with(name + ".");
}

void read_file(const fs::path& path, Config& config) {
    toml::table document;
    try {
        document = toml::parse_file(path.string());
    } catch (const toml::parse_error& error) {
        throw Error(ErrorCode::invalid_argument, "configuration: {}:{}: {}", path.string(),
                    error.source().begin.line, std::string(error.description()));
    }
    for (const auto& [section, content] : document) {
        const std::string section_name(section.str());
        const auto place = [&](const toml::node& node) {
            return fmt::format("{}:{}:", path.string(), node.source().begin.line);
        };
        if (!content.is_table())
            refuse(fmt::format("{} '{}'", place(content), section_name), "is not in a section");
        if (!known_section(section_name))
            refuse(fmt::format("{} section [{}]", place(content), section_name), "is not known");
        for (const auto& [key, value] : *content.as_table()) {
            const std::string name = section_name + "." + std::string(key.str());
            const std::string where =
                fmt::format("{} key '{}' in [{}]", place(value), key.str(), section_name);
            const auto reader = readers().find(name);
            if (reader == readers().end()) refuse(where, "is not known");
            reader->second(config, value, where);
        }
    }
}

}  // namespace

std::vector<std::string> config_keys() {
    std::vector<std::string> keys;
    for (const auto& [key, reader] : readers()) keys.push_back(key);
    return keys;
}

Config read_config(const std::string& directory) {
    Config config;
    const fs::path base(directory);
    std::vector<fs::path> files;
    if (fs::exists(base / "volchain.toml")) files.push_back(base / "volchain.toml");
    std::vector<fs::path> drop_ins;
    if (fs::exists(base / "volchain.toml.d"))
        for (const auto& entry : fs::directory_iterator(base / "volchain.toml.d"))
            if (entry.path().extension() == ".toml") drop_ins.push_back(entry.path());
    std::sort(drop_ins.begin(), drop_ins.end());
    files.insert(files.end(), drop_ins.begin(), drop_ins.end());
    for (const fs::path& file : files) read_file(file, config);
    return config;
}

}  // namespace volchain::daemon
