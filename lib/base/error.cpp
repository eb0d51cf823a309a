// SPDX-License-Identifier: MIT
#include "base/error.h"

#include <algorithm>
#include <array>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

namespace volchain {
namespace {

constexpr std::array<std::pair<ErrorCode, std::string_view>, 23> names{{
    {ErrorCode::invalid_argument, "InvalidArgument"},
    {ErrorCode::not_found, "NotFound"},
    {ErrorCode::already_exists, "AlreadyExists"},
    {ErrorCode::busy, "Busy"},
    {ErrorCode::in_use, "InUse"},
    {ErrorCode::not_running, "NotRunning"},
    {ErrorCode::running, "Running"},
    {ErrorCode::unreachable, "Unreachable"},
    {ErrorCode::agent_unavailable, "AgentUnavailable"},
    {ErrorCode::quiesce_failed, "QuiesceFailed"},
    {ErrorCode::unsafe_image, "UnsafeImage"},
    {ErrorCode::corrupt_image, "CorruptImage"},
    {ErrorCode::broken_chain, "BrokenChain"},
    {ErrorCode::no_space, "NoSpace"},
    {ErrorCode::read_only, "ReadOnly"},
    {ErrorCode::unsupported, "Unsupported"},
    {ErrorCode::cancelled, "Cancelled"},
    {ErrorCode::timeout, "Timeout"},
    {ErrorCode::qemu_failed, "QemuFailed"},
    {ErrorCode::interrupted, "Interrupted"},
    {ErrorCode::access_denied, "AccessDenied"},
    {ErrorCode::interaction_required, "InteractiveAuthorizationRequired"},
    {ErrorCode::internal, "Internal"},
}};

ErrorCode code_of_errno(int error_number) {
    switch (error_number) {
        case ENOSPC:
        case EDQUOT:
            return ErrorCode::no_space;
        case EROFS:
        case EACCES:
        case EPERM:
            return ErrorCode::read_only;
        case ENOENT:
        case ENOTDIR:
            return ErrorCode::not_found;
        case EEXIST:
            return ErrorCode::already_exists;
        case ELOOP:  // a symlink where none may be
        case EXDEV:  // openat2(): the path leads out of its directory
            return ErrorCode::unsafe_image;
        case ENAMETOOLONG:
            return ErrorCode::invalid_argument;
        default:
            return ErrorCode::internal;
    }
}

}  // namespace

std::string_view name(ErrorCode code) noexcept {
    const auto* found =
        std::find_if(names.begin(), names.end(), [code](const auto& n) { return n.first == code; });
    return found == names.end() ? "Internal" : found->second;
}

ErrorCode error_code(std::string_view text) noexcept {
    const auto* found =
        std::find_if(names.begin(), names.end(), [text](const auto& n) { return n.second == text; });
    return found == names.end() ? ErrorCode::internal : found->first;
}

Error Error::during(std::string_view activity) const {
    return {code_, fmt::format("{}: {}", activity, what())};
}

Error system_error(int error_number, std::string_view activity) {
    return {code_of_errno(error_number), "{}: {}", activity, std::generic_category().message(error_number)};
}

Error to_error(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const Error& error) {
        return error;
    } catch (const boost::system::system_error& error) {  // what Asio throws
        return {error.code() == boost::system::errc::operation_canceled ? ErrorCode::cancelled
                                                                        : ErrorCode::internal,
                std::string(error.what())};
    } catch (const std::system_error& error) {
        return {error.code() == std::errc::operation_canceled ? ErrorCode::cancelled : ErrorCode::internal,
                std::string(error.what())};
    } catch (const std::bad_alloc&) {
        return {ErrorCode::internal, std::string("out of memory")};
    } catch (const std::exception& error) {
        return {ErrorCode::internal, std::string(error.what())};
    } catch (...) {
        return {ErrorCode::internal, std::string("unknown exception")};
    }
}

}  // namespace volchain
