// SPDX-License-Identifier: MIT
//
// The configuration: volchain.toml and volchain.toml.d/*.toml in the configuration directory, read once at start. Every
// key is known or an error; the shipped file (config/volchain.toml) names them all.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"
#include "storage/settings.h"

namespace volchain::daemon {

struct Config {
    LogLevel log_level = LogLevel::info;
    storage::Settings settings;
};

/// Throws InvalidArgument with file, line and key. A directory without any of the files gives the defaults.
[[nodiscard]] Config read_config(const std::string& directory);

/// All keys, "section.key", so that a test can hold the shipped file against them.
[[nodiscard]] std::vector<std::string> config_keys();

}  // namespace volchain::daemon
