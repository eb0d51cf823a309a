// SPDX-License-Identifier: MIT
#include "qmp/block_graph.h"

#include <algorithm>

#include "qmp/node.h"
#include "support.h"

namespace volchain::qmp::block_graph_test {
namespace {

/// "c b a": the file names of a chain, without directory and suffix.
std::string names_of(const BlockGraph& graph, std::string_view node) {
    std::string names;
    for (const Node* layer : graph.chain(node)) {
        const std::string file = graph.file(layer->name).value_or("?/?.");
        const std::size_t slash = file.rfind('/');
        names += (names.empty() ? "" : " ") + file.substr(slash + 1, file.rfind('.') - slash - 1);
    }
    return names;
}

Words with_json(std::vector<Json> nodes, Words more) {
    Words options;
    for (const Json& node : nodes) options.insert(options.end(), {"-blockdev", node.dump()});
    options.insert(options.end(), more.begin(), more.end());
    return options;
}

/// base.raw <- a.qcow2 <- b.qcow2 <- c.qcow2
void make_chain(const TemporaryDirectory& directory) {
    create_image(directory / "base.raw", "raw", "4M");
    create_image(directory / "a.qcow2", "qcow2", "4M", "base.raw", "raw");
    create_image(directory / "b.qcow2", "qcow2", "4M", "a.qcow2", "qcow2");
    create_image(directory / "c.qcow2", "qcow2", "4M", "b.qcow2", "qcow2");
}

Task<> named_chain() {
    const TemporaryDirectory directory;
    make_chain(directory);
    const NodeOptions plain;
    std::vector<Json> nodes;
    std::string below;
    for (const char* name : {"base", "a", "b", "c"}) {
        const bool top = name == std::string("c");
        const bool raw = name == std::string("base");
        const std::string path = directory / (name + std::string(raw ? ".raw" : ".qcow2"));
        const std::string file = name + std::string("-file");
        nodes.push_back(file_node(file, path, top ? Access::read_write : Access::automatic, plain));
        Json format = format_node(name, raw ? "raw" : "qcow2", file,
                                  top ? Access::read_write : Access::read_only, plain);
        nodes.push_back(below.empty() ? format : with_backing(std::move(format), below));
        below = name;
    }
    Words options =
        with_json(std::move(nodes), {"-device", "virtio-blk-pci,drive=c,id=d0", "-device", "ide-cd,id=cd0"});
    const auto qemu = co_await Qemu::start(directory, std::move(options));
    const BlockGraph graph = co_await read_block_graph(qemu->session, soon());
    EXPECT_EQ(graph.nodes().size(), 8u);
    EXPECT_EQ(graph.devices().size(), 1u) << "the drive without a medium counts";
    const Device* const device = graph.find_device("d0");
    EXPECT_NE(device, nullptr);
    if (device == nullptr) co_return;
    EXPECT_EQ(device->root, "c");
    EXPECT_EQ(device->backend, "");
    EXPECT_FALSE(device->removable);
    EXPECT_EQ(graph.find_device("/machine/peripheral/d0"), device);
    EXPECT_EQ(graph.find_device(device->path), device);
    EXPECT_EQ(graph.find_device("d"), nullptr);
    EXPECT_EQ(graph.find_device(""), nullptr);
    EXPECT_EQ(graph.devices_on("c"), std::vector<const Device*>{device});
    EXPECT_TRUE(graph.devices_on("b").empty());
    EXPECT_EQ(names_of(graph, "c"), "c b a base");
    EXPECT_EQ(names_of(graph, "a"), "a base");
    EXPECT_EQ(graph.chain("nothing").size(), 0u);
    EXPECT_EQ(graph.protocol("c"), graph.find("c-file"));
    EXPECT_EQ(graph.layer_of_file(directory / "a.qcow2"), graph.find("a"));
    EXPECT_EQ(graph.layer_of_file(directory / "none"), nullptr);
    const Node& a = *graph.find("a");
    EXPECT_EQ(a.driver, "qcow2");
    EXPECT_TRUE(a.read_only);
    EXPECT_EQ(a.virtual_size, std::uint64_t{4} << 20);
    EXPECT_EQ(a.backing_filename, "base.raw");
    EXPECT_EQ(a.backing_format, "raw");
    EXPECT_FALSE(graph.find("c")->read_only);
    EXPECT_EQ(graph.parents("a").size(), 1u);
}
TEST(BlockGraph, ChainOfNamedNodes) {
    async::run(named_chain());
}

Task<> generated_names() {
    const TemporaryDirectory directory;
    make_chain(directory);
    Words options{
        "-drive",
        "file=" + (directory / "c.qcow2") + ",if=none,id=drv0,format=qcow2,cache=none,discard=unmap",
        "-device",
        "virtio-blk-pci,drive=drv0",
        "-drive",
        "if=none,id=cd,media=cdrom",
        "-device",
        "ide-cd,drive=cd",
        "-drive",
        "file=" + (directory / "base.raw") + ",if=none,id=drv1,format=raw,readonly=on,detect-zeroes=on",
        "-device",
        "virtio-blk-pci,drive=drv1,id=d1"};
    const auto qemu = co_await Qemu::start(directory, std::move(options));
    const BlockGraph graph = co_await read_block_graph(qemu->session, soon());
    EXPECT_EQ(graph.devices().size(), 2u);
    const Device* const first = graph.find_device("drv0");
    const Device* const second = graph.find_device("d1");
    EXPECT_NE(first, nullptr);
    EXPECT_NE(second, nullptr);
    if (first == nullptr || second == nullptr) co_return;
    EXPECT_TRUE(first->root.starts_with("#block")) << first->root;
    EXPECT_EQ(first->id, "") << "the device has none";
    EXPECT_EQ(names_of(graph, first->root), "c b a base");
    EXPECT_TRUE(graph.find(first->root)->cache_direct);
    EXPECT_FALSE(graph.find(second->root)->cache_direct);
    EXPECT_EQ(second->backend, "drv1");
    EXPECT_EQ(names_of(graph, second->root), "base");
    EXPECT_EQ(graph.find(second->root)->detect_zeroes, "on");
    EXPECT_TRUE(graph.find(second->root)->read_only);
}
TEST(BlockGraph, DrivesWithGeneratedNames) {
    async::run(generated_names());
}

Task<> filters() {
    const TemporaryDirectory directory;
    create_image(directory / "a.qcow2", "qcow2", "4M");
    const NodeOptions plain;
    std::vector<Json> nodes;
    nodes.push_back(format_node("a", "qcow2",
                                file_node("a-file", directory / "a.qcow2", Access::read_write, plain),
                                Access::read_write, plain));
    nodes.push_back(json(R"({"driver": "copy-on-read", "node-name": "cor", "file": "a"})"));
    nodes.push_back(
        json(R"({"driver": "throttle", "node-name": "thr", "throttle-group": "g", "file": "cor"})"));
    Words options = with_json(
        std::move(nodes), {"-object", "throttle-group,id=g", "-device", "virtio-blk-pci,drive=thr,id=d0"});
    const auto qemu = co_await Qemu::start(directory, std::move(options));
    const BlockGraph graph = co_await read_block_graph(qemu->session, soon());
    EXPECT_EQ(graph.find_device("d0")->root, "thr");
    EXPECT_TRUE(graph.find("thr")->filter());
    EXPECT_EQ(graph.layer("thr"), graph.find("a"));
    EXPECT_EQ(graph.layer("cor"), graph.find("a"));
    EXPECT_EQ(names_of(graph, "thr"), "a");
    EXPECT_EQ(graph.devices_on("a").size(), 1u);
    EXPECT_EQ(graph.layer_of_file(directory / "a.qcow2"), graph.find("a"));
    EXPECT_TRUE(graph.find("thr")->filename.starts_with("json:"));
}
TEST(BlockGraph, FiltersOnTop) {
    async::run(filters());
}

Task<> bare_protocol_nodes() {
    const TemporaryDirectory directory;
    create_image(directory / "base.raw", "raw", "4M");
    create_image(directory / "a.qcow2", "qcow2", "4M", "base.raw", "raw");
    const NodeOptions plain;
    std::vector<Json> nodes;
    nodes.push_back(file_node("base", directory / "base.raw", Access::automatic, plain));
    nodes.push_back(with_backing(
        format_node("a", "qcow2", file_node("a-file", directory / "a.qcow2", Access::read_write, plain),
                    Access::read_write, plain),
        "base"));
    Words options = with_json(std::move(nodes), {"-device", "virtio-blk-pci,drive=a,id=d0"});
    const auto qemu = co_await Qemu::start(directory, std::move(options));
    const BlockGraph graph = co_await read_block_graph(qemu->session, soon());
    EXPECT_EQ(names_of(graph, "a"), "a base");
    EXPECT_EQ(graph.chain("a").back()->driver, "file");
    EXPECT_EQ(graph.protocol("base"), graph.find("base"));
    EXPECT_EQ(graph.layer_of_file(directory / "base.raw"), graph.find("base"));
    EXPECT_EQ(graph.layer_of_file(directory / "a.qcow2"), graph.find("a"));
}
TEST(BlockGraph, RawBaseWithoutAFormatNode) {
    async::run(bare_protocol_nodes());
}

Task<> after_snapshot() {
    const TemporaryDirectory directory;
    create_image(directory / "a.qcow2", "qcow2", "4M");
    create_image(directory / "b.qcow2", "qcow2", "4M");
    const NodeOptions plain;
    const Json file = file_node("a-file", directory / "a.qcow2", Access::read_write, plain);
    std::vector<Json> nodes;
    nodes.push_back(format_node("a", "qcow2", file, Access::read_write, plain));
    nodes.push_back(
        json(R"({"driver": "throttle", "node-name": "thr", "throttle-group": "g", "file": "a"})"));
    Words options = with_json(
        std::move(nodes), {"-object", "throttle-group,id=g", "-device", "virtio-blk-pci,drive=thr,id=d0"});
    const auto qemu = co_await Qemu::start(directory, std::move(options));
    const auto& session = qemu->session;
    (void)co_await session->execute(
        "block-dirty-bitmap-add",
        json(R"({"node": "a", "name": "m", "persistent": true, "granularity": 65536})"), soon());
    Json overlay =
        format_node("b", "qcow2", file_node("b-file", directory / "b.qcow2", Access::read_write, plain),
                    Access::read_write, plain);
    overlay = without_backing(std::move(overlay));
    (void)co_await session->execute("blockdev-add", std::move(overlay), soon());
    (void)co_await session->execute("blockdev-snapshot", json(R"({"node": "a", "overlay": "b"})"), soon());
    const BlockGraph graph = co_await read_block_graph(session, soon());
    EXPECT_EQ(graph.find_device("d0")->root, "thr");
    EXPECT_EQ(graph.layer("thr"), graph.find("b"));
    EXPECT_EQ(names_of(graph, "thr"), "b a");
    EXPECT_TRUE(graph.devices_on("a").empty());
    const DirtyBitmap* const bitmap = graph.find("a")->bitmap("m");
    EXPECT_NE(bitmap, nullptr);
    if (bitmap == nullptr) co_return;
    EXPECT_TRUE(bitmap->persistent);
    EXPECT_TRUE(bitmap->recording);
    EXPECT_FALSE(bitmap->busy);
    EXPECT_FALSE(bitmap->inconsistent);
    EXPECT_EQ(bitmap->granularity, 65536u);
    EXPECT_EQ(graph.find("b")->bitmap("m"), nullptr);
}
TEST(BlockGraph, AfterALiveSnapshot) {
    async::run(after_snapshot());
}

Task<> of_a_storage_daemon() {
    const TemporaryDirectory directory;
    make_chain(directory);
    const auto daemon = co_await storage_daemon(directory);
    Json node = format_node("c", "qcow2", file_node("c-file", directory / "c.qcow2", Access::read_only, {}),
                            Access::read_only, {});
    (void)co_await daemon->session()->execute("blockdev-add", std::move(node), soon());
    const BlockGraph graph = co_await read_block_graph(daemon->session(), soon());
    EXPECT_TRUE(graph.devices().empty());
    EXPECT_EQ(names_of(graph, "c"), "c b a base");
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(BlockGraph, OfAStorageDaemon) {
    async::run(of_a_storage_daemon());
}

/// The graph while a commit job has its filter in it.
Task<> during_a_commit() {
    const TemporaryDirectory directory;
    make_chain(directory);
    const auto daemon = co_await storage_daemon(directory);
    const auto& session = daemon->session();
    Json node = format_node("c", "qcow2", file_node("c-file", directory / "c.qcow2", Access::read_write, {}),
                            Access::read_write, {});
    (void)co_await session->execute("blockdev-add", std::move(node), soon());
    const BlockGraph before = co_await read_block_graph(session, soon());
    const auto chain = before.chain("c");
    Json commit;
    commit["job-id"] = "j";
    commit["device"] = "c";
    commit["top-node"] = chain.at(1)->name;
    commit["base-node"] = chain.at(2)->name;
    commit["speed"] = 1;
    commit["auto-finalize"] = false;
    commit["auto-dismiss"] = false;
    commit["filter-node-name"] = "committing";
    (void)co_await session->execute("block-commit", std::move(commit), soon());
    const BlockGraph during = co_await read_block_graph(session, soon());
    EXPECT_NE(during.find("committing"), nullptr);
    EXPECT_EQ(names_of(during, "c"), "c b a base");
    EXPECT_EQ(during.layer("committing"), during.find(chain.at(1)->name));
    (void)co_await daemon->stop(soon());
}
TEST(BlockGraph, DuringACommit) {
    async::run(during_a_commit());
}

// --- parsing alone -----------------------------------------------------------------------------------------

const char* const two_nodes = R"([
    {"node-name": "top", "drv": "qcow2", "image": {"filename": "/x/top.qcow2"}},
    {"node-name": "file", "drv": "file", "image": {"filename": "json:{\"driver\": \"file\", \"filename\": \"/x/top.qcow2\"}"}}])";

TEST(BlockGraph, FromEdges) {
    const Json edges = json(R"({"nodes": [{"id": 1, "type": "block-driver", "name": "top"},
        {"id": 2, "type": "block-driver", "name": "file"}, {"id": 3, "type": "block-backend", "name": "dev"}],
        "edges": [{"parent": 1, "child": 2, "name": "file"}, {"parent": 3, "child": 1, "name": "root"}]})");
    const BlockGraph graph = BlockGraph::parse(json(two_nodes), &edges, nullptr);
    EXPECT_EQ(graph.file("top"), "/x/top.qcow2");
}

TEST(BlockGraph, FromChildren) {
    Json nodes = json(two_nodes);
    nodes[0]["children"] = json(R"([{"child": "file", "node-name": "file"}])");
    const Json devices = json(R"([{"device": "", "qdev": "cd0", "removable": true},
        {"device": "", "qdev": "/machine/unattached/device[3]", "inserted": {"node-name": "top"}}])");
    const BlockGraph graph = BlockGraph::parse(nodes, nullptr, &devices);
    EXPECT_EQ(graph.file("top"), "/x/top.qcow2");
    EXPECT_EQ(graph.devices().size(), 1u);
    EXPECT_EQ(graph.devices().front().id, "");
    EXPECT_EQ(graph.devices_on("top").size(), 1u);
}

/// A newer QEMU's nodes tell their children: it is not asked for them, nor for its schema.
Task<> with_children(FakePeer& peer) {
    Json nodes = json(two_nodes);
    nodes[0]["children"] = json(R"([{"child": "file", "node-name": "file"}])");
    std::string told = fmt::format("\"return\": {}", nodes.dump());
    co_await peer.answer("query-named-block-nodes", std::move(told));
    co_await peer.answer("query-block", R"("return": [])");
}

Task<> expect_a_file(FakeSession& fake) {
    const BlockGraph graph = co_await read_block_graph(fake.session, soon());
    EXPECT_EQ(graph.file("top"), "/x/top.qcow2");
}

Task<> read_with_children() {
    FakeSession fake = co_await fake_session();
    co_await together(with_children(*fake.peer), expect_a_file(fake));
}
TEST(BlockGraph, AsksForNoMoreThanItNeeds) {
    async::run(read_with_children());
}

Task<> without_edges(FakePeer& peer) {
    std::string told = fmt::format("\"return\": {}", json(two_nodes).dump());
    co_await peer.answer("query-named-block-nodes", std::move(told));
    co_await peer.answer("x-debug-query-block-graph",
                         R"("error": {"class": "CommandNotFound", "desc": "no such command"})");
}

Task<> expect_unsupported(FakeSession& fake) {
    const Error error = co_await failure_of(read_block_graph(fake.session, soon()));
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("hang together"), std::string::npos) << error.what();
}

Task<> read_without_edges() {
    FakeSession fake = co_await fake_session();
    co_await together(without_edges(*fake.peer), expect_unsupported(fake));
}
TEST(BlockGraph, OfAQemuThatDoesNotTellIt) {
    async::run(read_without_edges());
}

TEST(BlockGraph, TellsThatItChangedMeanwhile) {
    const auto code = [](const char* edges_text, const char* devices_text) {
        const Json edges = json(edges_text);
        const Json devices = json(devices_text);
        try {
            (void)BlockGraph::parse(json(two_nodes), &edges, &devices);
        } catch (const Error& error) {
            return error.code();
        }
        return ErrorCode::internal;
    };
    EXPECT_EQ(code(R"({"nodes": [{"id": 1, "type": "block-driver", "name": "top"}], "edges": []})", "[]"),
              ErrorCode::busy);
    EXPECT_EQ(code(R"({"nodes": [{"id": 1, "type": "block-driver", "name": "new"}], "edges": []})", "[]"),
              ErrorCode::busy);
    EXPECT_EQ(code(R"({"nodes": [{"id": 1, "type": "block-driver", "name": "top"},
                   {"id": 2, "type": "block-driver", "name": "file"}], "edges": []})",
                   R"([{"qdev": "d", "inserted": {"node-name": "new"}}])"),
              ErrorCode::busy);
}

TEST(BlockGraph, EndsWhereNodesGoRound) {
    const BlockGraph graph = BlockGraph::parse(
        json(R"([{"node-name": "a", "drv": "qcow2", "children": [{"child": "backing", "node-name": "b"},
                                                                 {"child": "file", "node-name": "a"}]},
                 {"node-name": "b", "drv": "qcow2", "children": [{"child": "backing", "node-name": "a"}]},
                 {"node-name": "f", "drv": "throttle", "children": [{"child": "file", "node-name": "f"}]}])"),
        nullptr, nullptr);
    EXPECT_LE(graph.chain("a").size(), 3u);
    EXPECT_EQ(graph.protocol("a"), nullptr);
    EXPECT_EQ(graph.file("a"), std::nullopt);
    (void)graph.layer("f");
    (void)graph.chain("f");
}

TEST(BlockGraph, WhatIsNone) {
    for (const char* text :
         {"{}", "7", "[7]", "[{}]", R"([{"node-name": "a"}])", R"([{"node-name": 7, "drv": "x"}])",
          R"([{"node-name": "a", "drv": "x", "dirty-bitmaps": 7}])",
          R"([{"node-name": "a", "drv": "x", "children": [{"child": "file", "node-name": "b"}]}])"})
        EXPECT_THROW((void)BlockGraph::parse(json(text), nullptr, nullptr), Error) << text;
}

/// What the cost of it is, for the record (design.md has QEMU's own share).
Task<> deep_chain() {
    const TemporaryDirectory directory;
    constexpr int depth = 60;
    create_image(directory / "0.qcow2", "qcow2", "1M");
    for (int i = 1; i < depth; ++i)
        create_image(directory / fmt::format("{}.qcow2", i), "qcow2", "1M", fmt::format("{}.qcow2", i - 1),
                     "qcow2");
    const auto daemon = co_await storage_daemon(directory);
    Json node = format_node(
        "top", "qcow2",
        file_node("top-file", directory / fmt::format("{}.qcow2", depth - 1), Access::read_only, {}),
        Access::read_only, {});
    (void)co_await daemon->session()->execute("blockdev-add", std::move(node), soon());
    const auto before = async::Clock::now();
    const BlockGraph graph = co_await read_block_graph(daemon->session(), soon());
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(async::Clock::now() - before);
    testing::Test::RecordProperty("milliseconds", static_cast<int>(took.count()));
    EXPECT_EQ(graph.chain("top").size(), static_cast<std::size_t>(depth));
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(BlockGraph, DeepChain) {
    async::run(deep_chain());
}

}  // namespace
}  // namespace volchain::qmp::block_graph_test
