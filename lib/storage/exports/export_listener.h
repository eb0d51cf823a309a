// SPDX-License-Identifier: MIT
//
// TCP for exports, which is only there with TLS: the listening socket, and the credentials as QEMU wants them. All calls
// block: they are for a worker thread.
#pragma once

#include <cstdint>
#include <string>

#include "async/process.h"
#include "base/enum_names.h"
#include "base/unique_fd.h"

namespace volchain::storage {

/// "192.0.2.1:10809" or "[2001:db8::1]:10809".
struct TcpAddress {
    std::string host;  ///< a numeric address, without brackets
    std::uint16_t port = 0;

    /// Throws InvalidArgument for anything else: names are not looked up.
    [[nodiscard]] static TcpAddress parse(const std::string& text);
    [[nodiscard]] std::string str() const;
};

/// A socket that listens there, for QEMU to inherit; port 0 becomes one that is free. Throws InUse where somebody has it.
[[nodiscard]] UniqueFd listen_tcp(TcpAddress& address);

/// The port that a TCP socket has.
[[nodiscard]] std::uint16_t bound_port(int socket);

enum class TlsKind { x509, psk };

/// Which credentials are in a directory: those of a server with certificates (ca-cert.pem, server-cert.pem,
/// server-key.pem) or pre-shared keys (keys.psk). Throws InvalidArgument where it has neither.
[[nodiscard]] TlsKind kind_of_credentials(const std::string& directory);

/// Puts copies into the new directory `to` that only `reader` can read: the storage daemon is not root, and keys are
/// root's.
void copy_credentials(const std::string& from, const std::string& to, const async::Identity& reader);

}  // namespace volchain::storage
