// SPDX-License-Identifier: MIT
//
// Feeds messages of strangers to all that reads their bodies: typed arguments, options, values of any type. The first
// byte of an input chooses the types that the message declares (the last choice: the input brings them along), the rest
// is the body. The message comes in over a socket, through sd-bus, which refuses what is no D-Bus. The rest may be
// refused with an Error and with nothing else; a value that was read can be sent again, and is the same then.
#include <sys/socket.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "base/error.h"
#include "systemd/bus_pump.h"
#include "systemd/options.h"
#include "systemd/variant.h"

namespace volchain::bus {
namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

// --- the sender --------------------------------------------------------------------------------------------

void align(std::string& bytes, std::size_t boundary) {
    while (bytes.size() % boundary != 0) bytes.push_back('\0');
}

void put_number(std::string& bytes, std::size_t number) {
    align(bytes, 4);
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(number >> shift & 0xff));
}

/// A header field (code, variant of a string, path or signature); see the D-Bus specification, "Message Format".
void put_field(std::string& bytes, char code, char type, std::string_view text) {
    align(bytes, 8);
    bytes += {code, 1, type, '\0'};
    if (type == 'g')
        bytes.push_back(static_cast<char>(text.size()));
    else
        put_number(bytes, text.size());
    bytes.append(text).push_back('\0');
}

std::string method_call(std::string_view signature, std::string_view body) {
    std::string fields;
    put_field(fields, 1, 'o', "/x");
    put_field(fields, 2, 's', "org.volchain1.X");
    put_field(fields, 3, 's', "X");
    if (!signature.empty()) put_field(fields, 8, 'g', signature);
    std::string message{'l', 1, 1, 1};  // little endian, method call, no reply wanted, version 1
    put_number(message, body.size());
    put_number(message, 1);
    put_number(message, fields.size());
    message += fields;
    align(message, 8);
    return message.append(body);
}

// --- the receiver ------------------------------------------------------------------------------------------

/// One end of a connection without a bus, as sd-bus makes it, and the other end as a bare socket.
class Line {
  public:
    Line() {
        std::array<int, 2> ends{};
        require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) == 0);
        sender_ = ends[1];
        sd_bus* bus = nullptr;
        const sd_id128_t id{};
        require(sd_bus_new(&bus) >= 0);
        bus_.reset(bus);
        require(sd_bus_set_fd(bus, ends[0], ends[0]) >= 0 && sd_bus_set_server(bus, 1, id) >= 0 &&
                sd_bus_set_anonymous(bus, 1) >= 0 && sd_bus_set_trusted(bus, 1) >= 0 &&
                sd_bus_start(bus) >= 0);
        static constexpr char handshake[] = "\0AUTH ANONYMOUS\r\nBEGIN\r\n";
        send({handshake, sizeof handshake - 1});
        while (sd_bus_is_ready(bus) == 0) require(sd_bus_process(bus, nullptr) >= 0);
    }
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;
    ~Line() { ::close(sender_); }

    void send(std::string_view bytes) const {
        require(::write(sender_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    }
    /// None: what was sent is no message.
    [[nodiscard]] Message receive() const {
        sd_bus_message* message = nullptr;
        int result = 0;
        do result = sd_bus_process(bus_.get(), &message);
        while (result > 0 && message == nullptr);
        return Message(message);
    }

  private:
    OpenBus bus_;
    int sender_;
};

// --- what is read ------------------------------------------------------------------------------------------

template <typename Tuple>
void read_as(const Message& message) {
    try {
        (void)read_body<Tuple>(message);
    } catch (const Error& error) {
        require(error.code() == ErrorCode::invalid_argument);
    }
}

/// As the methods of the daemon do.
void take_options(const Message& message) {
    try {
        Options options = std::get<0>(read_body<std::tuple<Options>>(message));
        (void)options.take<bool>("b");
        (void)options.take<std::uint64_t>("t");
        (void)options.take<std::string>("s");
        (void)options.take<std::vector<std::uint8_t>>("ay");
        (void)options.take<std::vector<ObjectPath>>("ao");
        (void)options.take<std::map<ObjectPath, ObjectPath>>("a{oo}");
        (void)options.take<Options>("a{sv}");
        options.finish();
    } catch (const Error& error) {
        require(error.code() == ErrorCode::invalid_argument);
    }
}

/// A value that was read is written and read again. Not a number is not itself, and nobody could take over descriptors.
template <typename T>
void repeat(const Message& message) {
    std::optional<T> value;
    try {
        value = std::get<0>(read_body<std::tuple<T>>(message));
    } catch (const Error& error) {
        require(error.code() == ErrorCode::invalid_argument);
        return;
    }
    sd_bus_message* again = nullptr;
    require(sd_bus_message_new_signal(sd_bus_message_get_bus(message.get()), &again, "/x", "x.y", "Z") >= 0);
    Message copy(again);
    append(copy, *value);
    require(sd_bus_message_seal(copy.get(), 1, 0) >= 0);
    const T back = std::get<0>(read_body<std::tuple<T>>(copy));
    require(back == *value || !(*value == *value));
}

void read_everything(const Message& message) {
    take_options(message);
    read_as<std::tuple<std::string, Options>>(message);
    read_as<std::tuple<std::string, std::string, Options>>(message);
    read_as<std::tuple<ObjectPath, std::string, Options>>(message);
    read_as<std::tuple<std::vector<std::uint8_t>, std::string>>(message);
    read_as<std::tuple<std::map<ObjectPath, ObjectPath>, Dict>>(message);
    repeat<Variant>(message);
    repeat<Dict>(message);
}

}  // namespace
}  // namespace volchain::bus

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain::bus;
    constexpr std::array<std::string_view, 7> signatures{"a{sv}", "sa{sv}",     "ssa{sv}", "osa{sv}",
                                                         "ays",   "a{oo}a{sv}", "v"};
    constexpr std::size_t largest = 16384;  // below what the socket takes at once
    if (size == 0 || size > largest) return 0;
    std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::size_t choice = static_cast<std::uint8_t>(input.front()) % (signatures.size() + 1);
    input.remove_prefix(1);
    std::string signature(choice < signatures.size() ? signatures[choice]
                                                     : input.substr(0, input.find('\0')));
    if (choice == signatures.size()) input.remove_prefix(std::min(input.size(), signature.size() + 1));
    if (signature.size() > 255) return 0;

    static std::unique_ptr<Line> line;
    if (!line) line = std::make_unique<Line>();
    line->send(method_call(signature, input));
    const Message message = line->receive();
    if (message)
        read_everything(message);
    else
        line.reset();  // sd-bus closes the connection of who sends what is no message
    return 0;
}
