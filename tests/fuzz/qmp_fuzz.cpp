// SPDX-License-Identifier: MIT
//
// Feeds what a QEMU could send to all that reads it: the stream of a monitor, the answers that the block
// graph and the schema are made of, and a command line. The first byte of an input says which. It may be
// refused with an Error and with nothing else, and it must not matter in what pieces a stream comes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "qmp/block_graph.h"
#include "qmp/command_line.h"
#include "qmp/line_splitter.h"
#include "qmp/message.h"
#include "qmp/schema.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t max_line = 512;

void require(bool condition) {
    if (!condition) std::abort();
}

// --- the stream of a monitor -------------------------------------------------------------------------------

std::vector<std::string> lines_of(std::string_view stream, std::size_t piece) {
    LineSplitter splitter(max_line);
    std::vector<std::string> lines;
    while (!stream.empty() && !splitter.overlong()) {
        splitter.feed(stream.substr(0, piece));
        stream.remove_prefix(std::min(piece, stream.size()));
        while (const auto line = splitter.next()) {
            require(line->size() <= max_line && line->find('\n') == std::string_view::npos);
            lines.emplace_back(*line);
        }
    }
    return lines;
}

void read_stream(std::string_view input) {
    const std::vector<std::string> lines = lines_of(input, input.size() + 1);
    require(lines == lines_of(input, 1));
    require(lines == lines_of(input, 7));
    for (const std::string& line : lines) {
        try {
            const Message message = parse_message(line);
            if (const auto* event = std::get_if<Event>(&message)) require(event->data.is_object());
            if (const auto* reply = std::get_if<Reply>(&message); reply != nullptr && reply->refusal)
                require(CommandError("x", *reply->refusal, {}).description() == reply->refusal->description);
        } catch (const Error& error) {
            require(error.code() == ErrorCode::unreachable);
        }
    }
}

// --- answers -----------------------------------------------------------------------------------------------

std::optional<Json> parse(std::string_view text) {
    try {
        return parse_json(text, "input", ErrorCode::qemu_failed);
    } catch (const Error&) {
        return std::nullopt;
    }
}

void walk(const BlockGraph& graph) {
    for (const auto& [name, node] : graph.nodes()) {
        require(graph.find(name) == &node);
        require(graph.chain(name).size() <= graph.nodes().size());
        for (const Node* layer : graph.chain(name)) require(!layer->filter() || graph.layer(name) == layer);
        for (const Node* parent : graph.parents(name)) require(!parent->children.empty());
        (void)graph.devices_on(name);
        (void)graph.protocol(name);
        try {
            if (const auto file = graph.file(name)) (void)graph.layer_of_file(*file);
        } catch (const Error& error) {
            require(error.code() == ErrorCode::qemu_failed);
        }
    }
    for (const Device& device : graph.devices()) require(graph.find(device.root) != nullptr);
}

/// {"nodes": ..., "edges": ..., "devices": ...}; the last two may be missing.
void read_graph(std::string_view input) {
    const auto answers = parse(input);
    if (!answers || !answers->is_object() || !answers->contains("nodes")) return;
    const auto edges = answers->find("edges");
    const auto devices = answers->find("devices");
    try {
        walk(BlockGraph::parse(answers->at("nodes"), edges == answers->end() ? nullptr : &*edges,
                               devices == answers->end() ? nullptr : &*devices));
    } catch (const Error& error) {
        require(error.code() == ErrorCode::qemu_failed || error.code() == ErrorCode::busy);
    }
}

void read_schema(std::string_view input) {
    const auto answer = parse(input);
    if (!answer) return;
    try {
        const Schema schema(*answer);
        (void)schema.has_command("c");
        (void)schema.has_event("c");
        (void)schema.command_has_argument({"c", "a", "b"});
        (void)schema.command_returns({"c", "a"});
        if (schema.enum_has_value({"c", "a"}, "v")) require(schema.command_has_argument({"c", "a"}));
    } catch (const Error& error) {
        require(error.code() == ErrorCode::qemu_failed);
    }
}

/// Arguments with a zero byte between them, as in /proc/PID/cmdline. The first is what is looked for.
void read_command_line(std::string_view input) {
    std::vector<std::string> arguments;
    while (!input.empty()) {
        const std::size_t end = std::min(input.find('\0'), input.size());
        arguments.emplace_back(input.substr(0, end));
        input.remove_prefix(std::min(end + 1, input.size()));
    }
    if (arguments.empty()) return;
    if (const auto options = options_in_command_line(arguments, {arguments.front(), "n"})) {
        const Json record = options->json();
        require(NodeOptions::parse(JsonReader(record, "record", ErrorCode::internal)) == *options);
    }
}

}  // namespace
}  // namespace volchain::qmp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain::qmp;
    if (size == 0) return 0;
    const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 4) {
        case 0:
            read_stream(input);
            break;
        case 1:
            read_graph(input);
            break;
        case 2:
            read_schema(input);
            break;
        default:
            read_command_line(input);
            break;
    }
    return 0;
}
