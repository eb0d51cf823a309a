// SPDX-License-Identifier: MIT
#include "qmp/node.h"

#include "qmp/block_graph.h"
#include "support.h"

namespace volchain::qmp::node_test {
namespace {

NodeOptions unusual() {
    NodeOptions options;
    options.cache_direct = true;
    options.cache_no_flush = true;
    options.aio = Aio::native;
    options.discard = true;
    options.detect_zeroes = DetectZeroes::unmap;
    return options;
}

TEST(NodeOptions, ThereAndBack) {
    for (const NodeOptions& options : {NodeOptions(), unusual()}) {
        const Json record = options.json();
        EXPECT_EQ(NodeOptions::parse(JsonReader(record, "record", ErrorCode::invalid_argument)), options);
    }
    const Json empty = Json::object();
    EXPECT_EQ(NodeOptions::parse(JsonReader(empty, "record", ErrorCode::invalid_argument)), NodeOptions());
    for (const char* text : {"7", R"({"aio": "telepathy"})", R"({"aio": 7})", R"({"discard": "yes"})"}) {
        const Json bad = json(text);
        EXPECT_THROW((void)NodeOptions::parse(JsonReader(bad, "record", ErrorCode::invalid_argument)), Error)
            << text;
    }
}

TEST(Node, FileNode) {
    EXPECT_EQ(file_node("f", "/x", Access::read_write, NodeOptions()),
              json(R"({"driver": "file", "node-name": "f", "filename": "/x", "discard": "ignore"})"));
    EXPECT_EQ(file_node("f", "/x", Access::automatic, NodeOptions()),
              json(R"({"driver": "file", "node-name": "f", "filename": "/x", "read-only": false,
                       "auto-read-only": true, "discard": "ignore"})"));
    EXPECT_EQ(
        file_node("f", "/x", Access::read_only, unusual()),
        json(R"({"driver": "file", "node-name": "f", "filename": "/x", "read-only": true, "aio": "native",
                       "cache": {"direct": true, "no-flush": true}, "discard": "unmap"})"));
}

TEST(Node, FormatNode) {
    Json node = format_node("n", "qcow2", "f", Access::read_write, unusual());
    EXPECT_EQ(node, json(R"({"driver": "qcow2", "node-name": "n", "file": "f", "discard": "unmap",
                             "cache": {"direct": true, "no-flush": true}, "detect-zeroes": "unmap"})"));
    EXPECT_EQ(
        format_node("n", "qcow2", "f", Access::read_only, NodeOptions()),
        json(
            R"({"driver": "qcow2", "node-name": "n", "file": "f", "read-only": true, "discard": "ignore"})"));
    EXPECT_EQ(with_backing(node, "b").at("backing"), "b");
    EXPECT_TRUE(without_backing(node).at("backing").is_null());
    NodeOptions keeps = unusual();
    keeps.discard = false;
    EXPECT_EQ(format_node("n", "raw", "f", Access::read_write, keeps).at("detect-zeroes"), "on")
        << "QEMU refuses unmap";
}

/// QEMU takes them, and shows them as they were asked for.
Task<> qemu_takes_them() {
    const TemporaryDirectory directory;
    create_image(directory / "a", "qcow2", "1M");
    create_image(directory / "b", "qcow2", "1M", "a", "qcow2");
    const auto daemon = co_await storage_daemon(directory);
    const auto& session = daemon->session();
    for (const Aio aio : {Aio::threads, Aio::native, Aio::io_uring}) {
        NodeOptions options = unusual();
        options.aio = aio;
        Json file = file_node("af", directory / "a", Access::automatic, options);
        Json below = format_node("a", "qcow2", "af", Access::read_only, options);
        Json above = format_node("b", "qcow2", file_node("bf", directory / "b", Access::read_write, options),
                                 Access::read_write, options);
        above = with_backing(std::move(above), "a");
        (void)co_await session->execute("blockdev-add", std::move(file), soon());
        (void)co_await session->execute("blockdev-add", std::move(below), soon());
        (void)co_await session->execute("blockdev-add", std::move(above), soon());
        const BlockGraph graph = co_await read_block_graph(session, soon());
        const Node* const node = graph.find("b");
        EXPECT_TRUE(node->cache_direct);
        EXPECT_TRUE(node->cache_no_flush);
        EXPECT_EQ(node->detect_zeroes, "unmap");
        EXPECT_FALSE(node->read_only);
        EXPECT_TRUE(graph.find("a")->read_only);
        for (const char* name : {"b", "a", "af"}) {
            Json remove;
            remove["node-name"] = name;
            (void)co_await session->execute("blockdev-del", std::move(remove), soon());
        }
    }
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
/// What is left out is as it would be said.
Task<> defaults() {
    const TemporaryDirectory directory;
    create_image(directory / "a", "qcow2", "1M");
    const auto daemon = co_await storage_daemon(directory);
    Json node = format_node("a", "qcow2", file_node("af", directory / "a", Access::read_write, NodeOptions()),
                            Access::read_write, NodeOptions());
    (void)co_await daemon->session()->execute("blockdev-add", std::move(node), soon());
    const BlockGraph graph = co_await read_block_graph(daemon->session(), soon());
    for (const char* name : {"a", "af"}) {
        const Node& found = *graph.find(name);
        EXPECT_FALSE(found.read_only) << name;
        EXPECT_FALSE(found.cache_direct) << name;
        EXPECT_FALSE(found.cache_no_flush) << name;
        EXPECT_EQ(found.detect_zeroes, "off") << name;
    }
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(Node, DefaultsAreQemus) {
    async::run(defaults());
}

TEST(Node, QemuTakesThem) {
    async::run(qemu_takes_them());
}

}  // namespace
}  // namespace volchain::qmp::node_test
