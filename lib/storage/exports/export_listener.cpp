// SPDX-License-Identifier: MIT
#include "storage/exports/export_listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

constexpr std::size_t max_credential_bytes = std::size_t{1} << 20;
constexpr int listen_backlog = 16;

/// What QEMU looks for (crypto/tlscredsx509.c, tlscredspsk.c), and whether it must be there.
struct CredentialFile {
    const char* name;
    bool needed;
};
constexpr std::array x509_files{CredentialFile{"ca-cert.pem", true}, CredentialFile{"server-cert.pem", true},
                                CredentialFile{"server-key.pem", true}, CredentialFile{"ca-crl.pem", false},
                                CredentialFile{"dh-params.pem", false}};
constexpr std::array psk_files{CredentialFile{"keys.psk", true}, CredentialFile{"dh-params.pem", false}};

std::span<const CredentialFile> files_of(TlsKind kind) {
    if (kind == TlsKind::x509) return x509_files;
    return psk_files;
}

bool has_file(int directory, const char* name) {
    return ::faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/// A sockaddr of either family.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;
    [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// None where `host` is no numeric address.
SocketAddress socket_address(const TcpAddress& address) {
    SocketAddress result;
    auto* const v4 = reinterpret_cast<sockaddr_in*>(&result.storage);
    auto* const v6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
    if (::inet_pton(AF_INET, address.host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(address.port);
        result.length = sizeof *v4;
    } else if (::inet_pton(AF_INET6, address.host.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(address.port);
        result.length = sizeof *v6;
    }
    return result;
}

}  // namespace

std::uint16_t bound_port(int socket) {
    SocketAddress bound;
    bound.length = sizeof bound.storage;
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&bound.storage), &bound.length) < 0)
        throw system_error(errno, "cannot look at a socket");
    if (bound.storage.ss_family == AF_INET)
        return ntohs(reinterpret_cast<const sockaddr_in*>(&bound.storage)->sin_port);
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&bound.storage)->sin6_port);
}

namespace {

[[noreturn]] void refuse_address(const TcpAddress& address, int error_number) {
    const std::string where = "cannot listen on " + address.str();
    if (error_number == EADDRINUSE) throw Error(ErrorCode::in_use, "{}: another process does", where);
    if (error_number == EADDRNOTAVAIL || error_number == EAFNOSUPPORT)
        throw Error(ErrorCode::unsupported, "{}: this host has no such address", where);
    throw system_error(error_number, where);
}

std::vector<std::byte> read_credential(int directory, const std::string& name) {
    const UniqueFd fd = open_beneath(directory, name, O_RDONLY);
    struct stat status {};
    if (::fstat(fd.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(name));
    if (!S_ISREG(status.st_mode) || static_cast<std::size_t>(status.st_size) > max_credential_bytes)
        throw Error(ErrorCode::invalid_argument, "{} is no file of credentials", quote(name));
    std::vector<std::byte> content(static_cast<std::size_t>(status.st_size));
    content.resize(read_at(fd.get(), content, 0));
    return content;
}

void give(int fd, const async::Identity& reader) {
    const bool mine = reader.uid == ::geteuid() && reader.gid == ::getegid();
    if (!mine && ::fchown(fd, reader.uid, reader.gid) < 0)
        throw system_error(errno, "cannot let the storage daemon read credentials");
}

}  // namespace

TcpAddress TcpAddress::parse(const std::string& text) {
    TcpAddress address;
    const std::size_t colon = text.rfind(':');
    bool right = colon != std::string::npos;
    if (right) {
        address.host = text.substr(0, colon);
        const bool brackets =
            address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']';
        if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
        const char* const end = text.data() + text.size();
        const auto [stop, failure] = std::from_chars(text.data() + colon + 1, end, address.port);
        right = failure == std::errc() && stop == end && socket_address(address).length > 0 &&
                brackets == (address.host.find(':') != std::string::npos);
    }
    if (!right)
        throw Error(ErrorCode::invalid_argument,
                    "option 'address': {} is not as 192.0.2.1:10809 or [2001:db8::1]:10809 (no names)",
                    quote(clipped(text)));
    return address;
}

std::string TcpAddress::str() const {
    const bool v6 = host.find(':') != std::string::npos;
    return fmt::format("{}{}{}:{}", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

UniqueFd listen_tcp(TcpAddress& address) {
    const SocketAddress wanted = socket_address(address);
    // Non-blocking, as in listen_unix() of qmp/unix_socket.h and for the same reason.
    UniqueFd fd(::socket(wanted.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) refuse_address(address, errno);
    const int on = 1;
    // What an export before it had is free at once.
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(fd.get(), wanted.get(), wanted.length) < 0 || ::listen(fd.get(), listen_backlog) < 0)
        refuse_address(address, errno);
    address.port = bound_port(fd.get());
    return fd;
}

TlsKind kind_of_credentials(const std::string& directory) {
    const UniqueFd opened = open_directory(directory);
    for (const TlsKind kind : {TlsKind::x509, TlsKind::psk}) {
        bool complete = true;
        for (const CredentialFile& file : files_of(kind))
            complete = complete && (!file.needed || has_file(opened.get(), file.name));
        if (complete) return kind;
    }
    throw Error(
        ErrorCode::invalid_argument,
        "option 'tls-credentials': {} has neither ca-cert.pem, server-cert.pem and server-key.pem nor "
        "keys.psk",
        quote(directory));
}

void copy_credentials(const std::string& from, const std::string& to, const async::Identity& reader) {
    const UniqueFd source = open_directory(from);
    if (::mkdir(to.c_str(), 0700) < 0) throw system_error(errno, "cannot make directory " + quote(to));
    const UniqueFd target = open_directory(to);
    for (const CredentialFile& file : files_of(kind_of_credentials(from))) {
        if (!has_file(source.get(), file.name)) continue;
        const std::vector<std::byte> content = read_credential(source.get(), file.name);
        const UniqueFd copy = open_beneath(target.get(), file.name, O_WRONLY | O_CREAT | O_EXCL, 0400);
        write_at(copy.get(), content, 0);
        give(copy.get(), reader);
    }
    give(target.get(), reader);
}

}  // namespace volchain::storage
