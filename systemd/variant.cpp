// SPDX-License-Identifier: MIT
#include "systemd/variant.h"

#include "base/error.h"

namespace volchain::bus {

bool Variant::Container::operator==(const Container& other) const {
    return kind == other.kind && contents == other.contents && items == other.items;
}

std::string Variant::signature() const {
    const auto of = [](const auto& value) -> std::string {
        using T = std::remove_cvref_t<decltype(value)>;
        if constexpr (!std::same_as<T, Container>) {
            return bus::signature<T>.c_str();
        } else {
            switch (value.kind) {
                case 'a':
                    return "a" + value.contents;
                case 'r':
                    return "(" + value.contents + ")";
                case 'e':
                    return "{" + value.contents + "}";
                default:
                    return "v";
            }
        }
    };
    return std::visit(of, content_);
}

void Variant::append_to(Message& message) const {
    message.open('v', signature().c_str());
    append_content(message);
    message.close();
}

void Variant::append_content(Message& message) const {
    const auto append_value = [&message](const auto& value) {
        if constexpr (!std::same_as<std::remove_cvref_t<decltype(value)>, Container>) {
            append(message, value);
        } else {
            message.open(value.kind, value.contents.c_str());
            for (const Variant& item : value.items) item.append_content(message);
            message.close();
        }
    };
    std::visit(append_value, content_);
}

Variant Variant::read_from(Reader& reader) {
    const Reader::Next next = reader.peek();
    if (next.type != 'v' || !reader.enter('v', next.contents.c_str()))
        throw Error(ErrorCode::invalid_argument, "D-Bus message: a variant is missing");
    Variant inner = read_content(reader);
    reader.exit();
    return inner;
}

Variant Variant::read_content(Reader& reader) {
    reader.enter_value();
    Reader::Next next = reader.peek();
    if (next.type == 'a' && next.contents == "y") {
        reader.leave_value();
        return Variant(Content(reader.get_bytes()));
    }
    if (next.type != 'a' && next.type != 'r' && next.type != 'e' && next.type != 'v') {
        reader.leave_value();
        return read_basic(reader, next.type);
    }
    Container container{next.type, std::move(next.contents), {}};
    if (!reader.enter(container.kind, container.contents.c_str()))
        throw Error(ErrorCode::invalid_argument, "D-Bus message: a container is missing");
    while (!reader.at_end()) container.items.push_back(read_content(reader));
    reader.exit();
    reader.leave_value();
    return Variant(Content(std::move(container)));
}

Variant Variant::read_basic(Reader& reader, char type) {
    switch (type) {
        case 'y':
            return Variant(Content(read<std::uint8_t>(reader)));
        case 'b':
            return Variant(Content(read<bool>(reader)));
        case 'n':
            return Variant(Content(read<std::int16_t>(reader)));
        case 'q':
            return Variant(Content(read<std::uint16_t>(reader)));
        case 'i':
            return Variant(Content(read<std::int32_t>(reader)));
        case 'u':
            return Variant(Content(read<std::uint32_t>(reader)));
        case 'x':
            return Variant(Content(read<std::int64_t>(reader)));
        case 't':
            return Variant(Content(read<std::uint64_t>(reader)));
        case 'd':
            return Variant(Content(read<double>(reader)));
        case 's':
            return Variant(Content(read<std::string>(reader)));
        case 'o':
            return Variant(Content(read<ObjectPath>(reader)));
        case 'g':
            return Variant(Content(read<bus::Signature>(reader)));
        case 'h':
            return Variant(Content(read<UnixFd>(reader)));
        default:
            throw Error(ErrorCode::invalid_argument, "D-Bus message: a value of unknown type");
    }
}

}  // namespace volchain::bus
