// SPDX-License-Identifier: MIT
//
// The D-Bus types that C++ has no type for: object paths, signatures and file descriptors; and how the path
// of an object is made from its kind's prefix and its id. They are values, and each knows how it is
// marshalled (marshal.h).
#pragma once

#include <compare>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/unique_fd.h"
#include "base/uuid.h"
#include "systemd/message.h"
#include "systemd/signature.h"

namespace volchain::bus {

class ObjectPath {
  public:
    static constexpr StaticText dbus_signature{"o"};

    /// "/": no object.
    ObjectPath() : text_("/") {}
    /// Throws InvalidArgument where `text` is not an object path.
    explicit ObjectPath(std::string text);

    [[nodiscard]] const std::string& str() const noexcept { return text_; }
    [[nodiscard]] bool none() const noexcept { return text_ == "/"; }

    auto operator<=>(const ObjectPath&) const = default;

    void append_to(Message& message) const;
    [[nodiscard]] static ObjectPath read_from(Reader& reader);

  private:
    std::string text_;
};

/// "/org/volchain1/disk" and an id: the path of that disk; the nil id: "/".
[[nodiscard]] ObjectPath object_path(std::string_view prefix, Uuid id);
/// The inverse; none where `path` is not of an object below `prefix`.
[[nodiscard]] std::optional<Uuid> object_id(std::string_view prefix, std::string_view path) noexcept;

class Signature {
  public:
    static constexpr StaticText dbus_signature{"g"};

    Signature() = default;
    /// Not checked here; sending one that is none fails.
    explicit Signature(std::string text) : text_(std::move(text)) {}

    [[nodiscard]] const std::string& str() const noexcept { return text_; }
    auto operator<=>(const Signature&) const = default;

    void append_to(Message& message) const;
    [[nodiscard]] static Signature read_from(Reader& reader);

  private:
    std::string text_;
};

/// A file descriptor in a message. Copies share it; a received one is a duplicate of its own, with O_CLOEXEC.
class UnixFd {
  public:
    static constexpr StaticText dbus_signature{"h"};

    /// None. It cannot be sent.
    UnixFd() = default;
    explicit UnixFd(UniqueFd fd) : fd_(std::make_shared<const UniqueFd>(std::move(fd))) {}

    /// -1 for none.
    [[nodiscard]] int get() const noexcept { return fd_ == nullptr ? -1 : fd_->get(); }
    /// A duplicate that the caller owns alone.
    [[nodiscard]] UniqueFd duplicate() const;

    bool operator==(const UnixFd&) const = default;

    void append_to(Message& message) const;
    [[nodiscard]] static UnixFd read_from(Reader& reader);

  private:
    std::shared_ptr<const UniqueFd> fd_;
};

}  // namespace volchain::bus
