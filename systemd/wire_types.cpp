// SPDX-License-Identifier: MIT
#include "systemd/wire_types.h"

#include <fcntl.h>

#include <cerrno>

#include "base/error.h"
#include "base/text.h"

namespace volchain::bus {
namespace {

UniqueFd duplicate_fd(int fd) {
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) throw system_error(errno, "cannot duplicate a file descriptor");
    return copy;
}

}  // namespace

ObjectPath::ObjectPath(std::string text) : text_(std::move(text)) {
    if (text_.find('\0') != std::string::npos || sd_bus_object_path_is_valid(text_.c_str()) <= 0)
        throw Error(ErrorCode::invalid_argument, "{} is not a D-Bus object path", quote(text_));
}

void ObjectPath::append_to(Message& message) const {
    message.put('o', text_.c_str());
}

ObjectPath ObjectPath::read_from(Reader& reader) {
    const char* text = nullptr;
    reader.get('o', static_cast<void*>(&text));
    return ObjectPath(text);
}

ObjectPath object_path(std::string_view prefix, Uuid id) {
    return id ? ObjectPath(fmt::format("{}/{}", prefix, id.str('_'))) : ObjectPath();
}

std::optional<Uuid> object_id(std::string_view prefix, std::string_view path) noexcept {
    if (!path.starts_with(prefix)) return std::nullopt;
    path.remove_prefix(prefix.size());
    if (!path.starts_with('/')) return std::nullopt;
    path.remove_prefix(1);
    const auto id = Uuid::parse(path);
    // One object has one path: not also the one in capital letters.
    if (!id || !*id) return std::nullopt;
    for (const char c : path)
        if (c >= 'A' && c <= 'F') return std::nullopt;
    return id;
}

void Signature::append_to(Message& message) const {
    message.put('g', text_.c_str());
}

Signature Signature::read_from(Reader& reader) {
    const char* text = nullptr;
    reader.get('g', static_cast<void*>(&text));
    return Signature(text);
}

UniqueFd UnixFd::duplicate() const {
    return duplicate_fd(get());
}

void UnixFd::append_to(Message& message) const {
    const int fd = get();
    message.put('h', &fd);
}

UnixFd UnixFd::read_from(Reader& reader) {
    int borrowed = -1;
    reader.get('h', &borrowed);
    return UnixFd(duplicate_fd(borrowed));
}

}  // namespace volchain::bus
