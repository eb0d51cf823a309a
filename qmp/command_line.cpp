// SPDX-License-Identifier: MIT
#include "qmp/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/file.h"
#include "base/log.h"

namespace volchain::qmp {
namespace {

/// More than the kernel lets a command line have in practice (a quarter of the stack limit).
constexpr std::size_t max_command_line = std::size_t{8} << 20;

/// Options with dotted names ("file.cache.direct"), whatever syntax they came in.
using Flat = std::map<std::string, std::string, std::less<>>;

std::optional<std::string_view> value(const Flat& flat, std::string_view key) {
    const auto found = flat.find(key);
    if (found == flat.end()) return std::nullopt;
    return found->second;
}

// --- the three syntaxes ------------------------------------------------------------------------------------

void flatten(const Json& json, const std::string& prefix, Flat& flat) {
    if (json.is_object()) {
        for (const auto& [key, member] : json.items())
            flatten(member, prefix.empty() ? key : prefix + "." + key, flat);
    } else if (json.is_boolean()) {
        flat[prefix] = json.get<bool>() ? "on" : "off";
    } else if (json.is_string()) {
        flat[prefix] = json.get<std::string>();
    }
}

/// The text up to the next single comma, with two commas read as one (util/keyval.c).
std::string next_part(std::string_view& rest) {
    std::string part;
    while (!rest.empty()) {
        const bool comma = rest.front() == ',';
        if (comma && !rest.starts_with(",,")) {
            rest.remove_prefix(1);
            break;
        }
        part += rest.front();
        rest.remove_prefix(comma ? 2 : 1);
    }
    return part;
}

/// key=value,key=value; a part without '=' has the `implied` key where it is the first, else it is a switch.
Flat key_values(std::string_view text, std::string_view implied) {
    Flat flat;
    for (bool first = true; !text.empty(); first = false) {
        const std::string part = next_part(text);
        const std::size_t equals = part.find('=');
        if (equals != std::string::npos)
            flat[part.substr(0, equals)] = part.substr(equals + 1);
        else if (first)
            flat[std::string(implied)] = part;
        else
            flat[part] = "on";
    }
    return flat;
}

Flat blockdev_options(const std::string& argument) {
    if (!argument.starts_with('{')) return key_values(argument, "driver");
    Flat flat;
    flatten(parse_json(argument, "-blockdev argument", ErrorCode::invalid_argument), "", flat);
    return flat;
}

/// As a -blockdev that has its file node inside.
Flat drive_options(const std::string& argument) {
    Flat flat = key_values(argument, "file");
    if (const auto file = value(flat, "file")) flat["file.filename"] = *file;
    flat.erase("file");
    if (const auto cache = value(flat, "cache")) {
        // bdrv_parse_cache_mode() in block.c
        flat.emplace("cache.direct",
                     *cache == "none" || *cache == "off" || *cache == "directsync" ? "on" : "off");
        flat.emplace("cache.no-flush", *cache == "unsafe" ? "on" : "off");
    }
    if (const auto aio = value(flat, "aio")) flat["file.aio"] = *aio;
    return flat;
}

// --- finding -----------------------------------------------------------------------------------------------

bool on(std::optional<std::string_view> text) {
    return text == "on" || text == "true" || text == "yes";
}
bool unmaps(std::optional<std::string_view> text) {
    return text == "unmap" || text == "on";
}

class Blocks {
  public:
    explicit Blocks(const std::vector<std::string>& arguments);
    [[nodiscard]] std::optional<NodeOptions> find(std::string_view name) const;

  private:
    [[nodiscard]] const Flat* named(std::string_view name) const;
    [[nodiscard]] const Flat* file_of(const Flat& block) const;
    [[nodiscard]] NodeOptions options_of(const Flat& block) const;

    std::vector<Flat> blocks_;
};

Blocks::Blocks(const std::vector<std::string>& arguments) {
    for (std::size_t i = 1; i < arguments.size(); ++i) {
        const std::string_view option = arguments[i - 1];
        const bool blockdev = option == "-blockdev" || option == "--blockdev";
        const bool drive = option == "-drive" || option == "--drive";
        if (!blockdev && !drive) continue;
        try {
            blocks_.push_back(blockdev ? blockdev_options(arguments[i]) : drive_options(arguments[i]));
        } catch (const Error& error) {
            log().debug("ignored in a command line of QEMU: {}", error.what());
        }
    }
}

const Flat* Blocks::named(std::string_view name) const {
    for (const Flat& block : blocks_)
        if (value(block, "node-name") == name) return &block;
    return nullptr;
}

/// The separate file node that a format node refers to by name; null where it has it inside, or is one.
const Flat* Blocks::file_of(const Flat& block) const {
    const auto reference = value(block, "file");
    return reference ? named(*reference) : nullptr;
}

NodeOptions Blocks::options_of(const Flat& block) const {
    NodeOptions options;
    const Flat* const separate = file_of(block);
    const bool inside = value(block, "file.filename").has_value();
    // Of the node that opens the file; one that is inside takes over what it is not told
    // (bdrv_inherited_options()).
    const auto of_file = [&](const std::string& key) {
        if (separate != nullptr) return value(*separate, key);
        const auto own = inside ? value(block, "file." + key) : std::nullopt;
        return own ? own : value(block, key);
    };
    options.cache_direct = on(of_file("cache.direct"));
    options.cache_no_flush = on(of_file("cache.no-flush"));
    if (const auto aio = of_file("aio")) options.aio = from_word<Aio>(*aio).value_or(options.aio);
    options.discard = unmaps(value(block, "discard")) && unmaps(of_file("discard"));
    if (const auto detect = value(block, "detect-zeroes"))
        options.detect_zeroes = from_word<DetectZeroes>(*detect).value_or(options.detect_zeroes);
    return options;
}

std::optional<NodeOptions> Blocks::find(std::string_view name) const {
    // A format node has the file of its file node: look for it first.
    for (const Flat& block : blocks_) {
        const Flat* const separate = file_of(block);
        const bool has_file = value(block, "file.filename") == name ||
                              (separate != nullptr && value(*separate, "filename") == name);
        if (value(block, "node-name") == name || value(block, "id") == name || has_file)
            return options_of(block);
    }
    for (const Flat& block : blocks_)
        if (value(block, "filename") == name) return options_of(block);
    return std::nullopt;
}

}  // namespace

std::optional<NodeOptions> options_in_command_line(const std::vector<std::string>& arguments,
                                                   const std::vector<std::string>& names) {
    const Blocks blocks(arguments);
    for (const std::string& name : names)
        if (auto found = name.empty() ? std::nullopt : blocks.find(name)) return found;
    return std::nullopt;
}

bool one_qmp_monitor(const std::vector<std::string>& arguments) {
    std::size_t monitors = 0;
    for (std::size_t index = 0; index + 1 < arguments.size(); ++index) {
        std::string_view option = arguments[index];
        const std::string& argument = arguments[index + 1];
        option.remove_prefix(std::min(option.find_first_not_of('-'), option.size()));
        if (option == "qmp" || option == "qmp-pretty") ++monitors;
        if (option == "mon" && value(key_values(argument, "chardev"), "mode") == "control") ++monitors;
        // Which may make further ones.
        if (option == "readconfig" || (option == "set" && argument.starts_with("mon"))) return false;
    }
    return monitors == 1;
}

std::vector<std::string> command_line_of(pid_t pid) {
    std::string text;
    try {
        text = read_file(fmt::format("/proc/{}/cmdline", pid), max_command_line);
    } catch (const Error& error) {
        log().debug("no command line: {}", error.what());
    }
    std::vector<std::string> arguments;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\0', begin), text.size());
        arguments.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return arguments;
}

}  // namespace volchain::qmp
