// SPDX-License-Identifier: MIT
//
// Message: one D-Bus message, shared by reference as sd-bus does; and Reader, a walk over the body of a
// received one. Both are the untyped ground under marshal.h, which is what everybody else uses. A received
// message is foreign: all that is wrong with it is thrown as InvalidArgument by the reader, and the message
// is of no use for reading after that.
#pragma once

#include <systemd/sd-bus.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace volchain::bus {

/// D-Bus strings are UTF-8 without NUL, and a message with another one cannot be composed: `text` with every byte that
/// may not be sent (a path may hold any) turned into U+FFFD.
[[nodiscard]] std::string wire_text(std::string_view text);

class Message {
  public:
    Message() noexcept = default;
    /// Takes over a reference.
    explicit Message(sd_bus_message* message) noexcept : message_(message) {}
    /// Takes a reference of its own.
    [[nodiscard]] static Message share(sd_bus_message* message) noexcept {
        return Message(sd_bus_message_ref(message));
    }

    [[nodiscard]] sd_bus_message* get() const noexcept { return message_.get(); }
    [[nodiscard]] explicit operator bool() const noexcept { return message_ != nullptr; }

    /// Parts of the header; empty where the message has none.
    [[nodiscard]] std::string sender() const;
    [[nodiscard]] std::string destination() const;
    [[nodiscard]] std::string path() const;
    [[nodiscard]] std::string interface() const;
    [[nodiscard]] std::string member() const;
    /// The types of the whole body.
    [[nodiscard]] std::string signature() const;
    /// Whether it is an error reply.
    [[nodiscard]] bool is_error() const noexcept;
    /// "org.volchain1.Disk.Resize", for messages to people.
    [[nodiscard]] std::string name() const;

    /// Appends values; the functions of marshal.h call these. The bus closes the connection of whoever sends
    /// more than it takes (32 MiB is usual), so more than max_body_bytes, estimated rather too high, are refused
    /// here, with Unsupported.
    static constexpr std::size_t max_body_bytes = std::size_t{24} << 20;
    void put(char type, const void* value);
    void put_bytes(const std::vector<std::uint8_t>& bytes);
    /// wire_text() of it.
    void put_text(std::string_view text);
    void open(char kind, const char* contents);
    void close();

  private:
    struct Unref {
        void operator()(sd_bus_message* message) const noexcept { sd_bus_message_unref(message); }
    };
    void count(std::size_t bytes);

    std::unique_ptr<sd_bus_message, Unref> message_;
    std::size_t body_bytes_ = 0;
};

class Reader {
  public:
    /// Begins at the start of the body. The message must outlive the reader.
    explicit Reader(const Message& message);

    /// The type of what comes next, and for a container the types in it; type 0 at the end of this level.
    struct Next {
        char type = 0;
        std::string contents;
    };
    [[nodiscard]] Next peek();
    [[nodiscard]] bool at_end();

    void get(char type, void* value);
    [[nodiscard]] std::vector<std::uint8_t> get_bytes();
    /// Into the container that comes next; false where this level has ended instead.
    [[nodiscard]] bool enter(char kind, const char* contents);
    void exit();

    /// Values whose type only the message knows are read no deeper than max_depth and no more than max_values
    /// of them (max_values_of_reply, from a peer that we asked), so that a small message cannot become a
    /// large tree. Called for each one; leave_value() where it ends.
    void enter_value();
    void leave_value() noexcept { --depth_; }
    static constexpr unsigned max_depth = 32;
    static constexpr std::size_t max_values = 100'000;
    static constexpr std::size_t max_values_of_reply = 4'000'000;

    /// Throws InvalidArgument unless the body is of exactly these types.
    void expect(std::string_view signature) const;

  private:
    /// `type`: what was expected, 0 for the end of a container.
    void check(int result, char type) const;

    sd_bus_message* message_;
    unsigned depth_ = 0;
    std::size_t values_left_ = max_values;
};

}  // namespace volchain::bus
