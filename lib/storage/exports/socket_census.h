// SPDX-License-Identifier: MIT
//
// How many connections the listening sockets of this host have, as the kernel lists them. QEMU has no answer to the
// question how many clients an NBD server has.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace volchain::storage {

/// Path -> accepted connections, of /proc/net/unix (proc(5)).
[[nodiscard]] std::map<std::string, std::uint32_t> unix_connections(std::string_view table);
/// Local port -> established connections, of /proc/net/tcp or tcp6. A port stands for all addresses: where several exports
/// have it on different ones, they are not told apart.
[[nodiscard]] std::map<std::uint16_t, std::uint32_t> tcp_connections(std::string_view table);

}  // namespace volchain::storage
