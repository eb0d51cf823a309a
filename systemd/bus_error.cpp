// SPDX-License-Identifier: MIT
#include "systemd/bus_error.h"

#include <algorithm>
#include <array>
#include <utility>

namespace volchain::bus {
namespace {

constexpr std::string_view standard_prefix = "org.freedesktop.DBus.Error.";

ErrorCode nearest_code(std::string_view error_name) {
    static constexpr std::array<std::pair<std::string_view, ErrorCode>, 15> standard{{
        {"AccessDenied", ErrorCode::access_denied},
        {"AuthFailed", ErrorCode::access_denied},
        {"InteractiveAuthorizationRequired", ErrorCode::interaction_required},
        {"ServiceUnknown", ErrorCode::unreachable},
        {"NameHasNoOwner", ErrorCode::unreachable},
        {"NoReply", ErrorCode::unreachable},  // the peer or the bus went while we waited
        {"Disconnected", ErrorCode::unreachable},
        {"NoServer", ErrorCode::unreachable},
        {"Timeout", ErrorCode::timeout},
        {"TimedOut", ErrorCode::timeout},
        {"LimitsExceeded", ErrorCode::busy},
        {"InvalidArgs", ErrorCode::invalid_argument},
        {"InvalidSignature", ErrorCode::invalid_argument},
        {"UnknownObject", ErrorCode::not_found},
        {"NotSupported", ErrorCode::unsupported},
    }};
    if (!error_name.starts_with(standard_prefix)) return ErrorCode::internal;
    error_name.remove_prefix(standard_prefix.size());
    const auto* found = std::find_if(standard.begin(), standard.end(),
                                     [&](const auto& entry) { return entry.first == error_name; });
    return found == standard.end() ? ErrorCode::internal : found->second;
}

}  // namespace

RemoteError::RemoteError(std::string error_name, const std::string& message)
    : Error(nearest_code(error_name), message), error_name_(std::move(error_name)) {}

void throw_error_reply(const Message& reply) {
    const sd_bus_error* error = sd_bus_message_get_error(reply.get());
    const std::string error_name = error != nullptr && error->name != nullptr ? error->name : "";
    const std::string text = error != nullptr && error->message != nullptr ? error->message : error_name;
    if (error_name.starts_with(error_prefix))
        throw Error(error_code(std::string_view(error_name).substr(error_prefix.size())), text);
    throw RemoteError(error_name, text);
}

ErrorReply error_reply(const std::exception_ptr& failure) {
    const Error error = to_error(failure);
    std::string text = wire_text(error.what());
    switch (error.code()) {
        case ErrorCode::access_denied:
            return {std::string(access_denied_name), std::move(text)};
        case ErrorCode::interaction_required:
            return {std::string(interaction_required_name), std::move(text)};
        default:
            return {std::string(error_prefix).append(name(error.code())), std::move(text)};
    }
}

}  // namespace volchain::bus
