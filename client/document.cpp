// SPDX-License-Identifier: MIT
#include "client/document.h"

#include <array>
#include <cerrno>
#include <cstdio>

#include "base/file.h"
#include "base/text.h"

namespace volchain::client {
namespace {

std::string read_stdin(std::size_t limit) {
    std::string all;
    std::array<char, 65536> part{};
    while (const std::size_t count = std::fread(part.data(), 1, part.size(), stdin)) {
        all.append(part.data(), count);
        if (all.size() > limit)
            throw Error(ErrorCode::invalid_argument,
                        "such a document has at most {} bytes; there are more on stdin", limit);
    }
    if (std::ferror(stdin) != 0) throw system_error(errno, "cannot read stdin");
    return all;
}

}  // namespace

std::string read_text(const std::string& path, std::size_t limit) {
    return path == "-" ? read_stdin(limit) : read_file(path, limit);
}

Bytes read_document(const std::string& path) {
    const std::string text = read_text(path, std::size_t{4} << 20);
    return {text.begin(), text.end()};
}

async::Task<> print_config(Session& session, bus::ObjectPath object) {
    const auto answer = co_await session.call<std::tuple<Bytes, std::string>>(object, "GetConfig");
    const auto& [config, type] = answer;
    const std::string text(config.begin(), config.end());
    if (!session.output().json()) {
        session.output().print_raw(text);
        co_return;
    }
    Sheet sheet;
    sheet.add("Type", Cell::text(type));
    sheet.add("Config", Cell::text(text));
    session.output().print(sheet);
}

}  // namespace volchain::client
