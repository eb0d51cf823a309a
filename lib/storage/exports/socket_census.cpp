// SPDX-License-Identifier: MIT
#include "storage/exports/socket_census.h"

#include <array>
#include <charconv>
#include <sstream>

namespace volchain::storage {
namespace {

/// Both tables have a heading.
template <typename Take>
void for_each_row(std::string_view table, const Take& take) {
    std::istringstream lines{std::string(table)};
    std::string line;
    (void)std::getline(lines, line);
    while (std::getline(lines, line)) take(std::istringstream(line));
}

}  // namespace

std::map<std::string, std::uint32_t> unix_connections(std::string_view table) {
    std::map<std::string, std::uint32_t> all;
    // Num RefCount Protocol Flags Type St Inode Path. What was accepted has the path of what listens.
    for_each_row(table, [&](std::istringstream row) {
        constexpr std::string_view connected = "03";
        std::array<std::string, 7> fields;
        for (std::string& field : fields) row >> field;
        std::string path;
        if (row >> std::ws && std::getline(row, path) && fields[5] == connected) ++all[path];
    });
    return all;
}

std::map<std::uint16_t, std::uint32_t> tcp_connections(std::string_view table) {
    std::map<std::uint16_t, std::uint32_t> all;
    // sl local_address rem_address st ...; an address is HEX:PORT.
    for_each_row(table, [&](std::istringstream row) {
        constexpr std::string_view established = "01";
        std::string number;
        std::string local;
        std::string remote;
        std::string state;
        row >> number >> local >> remote >> state;
        const std::size_t colon = local.find(':');
        if (state != established || colon == std::string::npos) return;
        std::uint16_t port = 0;
        const char* const end = local.data() + local.size();
        if (std::from_chars(local.data() + colon + 1, end, port, 16).ec == std::errc()) ++all[port];
    });
    return all;
}

}  // namespace volchain::storage
