// SPDX-License-Identifier: MIT
#include "systemd/options.h"

#include "base/text.h"

namespace volchain::bus {

void Options::finish() const {
    if (values_.empty()) return;
    std::vector<std::string> names;
    for (const auto& [name, value] : values_) names.push_back(quote(prefix_ + name));
    throw Error(ErrorCode::invalid_argument, "unknown option{} {}", names.size() == 1 ? "" : "s",
                clipped(joined(names, ", ")));
}

void Options::refuse(const std::string& name, std::string_view expected, const Variant& value) const {
    const std::string given = value.signature();
    if (given.size() == 1 && expected.size() == 1 &&
        std::string_view("nqiuxty").find(given) != std::string::npos &&
        std::string_view("nqiuxty").find(expected) != std::string::npos)
        throw Error(ErrorCode::invalid_argument, "option {} is out of range for D-Bus type '{}'",
                    quote(prefix_ + name), expected);
    throw Error(ErrorCode::invalid_argument, "option {} must be of D-Bus type '{}', not '{}'",
                quote(prefix_ + name), expected, given);
}

}  // namespace volchain::bus
