// SPDX-License-Identifier: MIT
#include "storage/vms/live_chain.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/node.h"

namespace volchain::storage {
namespace {

/// QEMU's limit for node names is 31 characters.
std::string short_id(const Uuid& id) {
    std::string text = id.str();
    std::erase(text, '-');
    return text.substr(0, 12);
}

Json node_of(const PlannedLayer& layer, qmp::Access access, const qmp::NodeOptions& options) {
    const bool left_alone = access == qmp::Access::read_only;
    const qmp::Access file_access = left_alone ? qmp::Access::automatic : access;
    Json file = qmp::file_node(layer.file_node, layer.path, file_access, options);
    return qmp::format_node(layer.node, word(layer.format), std::move(file), access, options);
}

void check_complete(const Catalog& catalog, const std::vector<Uuid>& chain) {
    for (const Uuid& volume : chain) {
        const VolumeFacts& facts = catalog.facts(volume);
        const std::string what = catalog.describe({ObjectKind::volume, volume});
        if (facts.state != VolumeState::ok)
            throw Error(ErrorCode::broken_chain, "{} is {}: {}", what, word(facts.state), facts.problem);
        if (facts.backing && catalog.backing(volume).nil())
            throw Error(ErrorCode::broken_chain, "the backing file {} of {} is no volume; import it first",
                        quote(facts.backing->name), what);
    }
}

/// A description of QEMU's, which has no classes of its own for these.
bool says(const Error& error, std::string_view words) {
    return std::string_view(error.what()).find(words) != std::string_view::npos;
}

bool absent(const Error& error) {
    return says(error, "Failed to find node") || says(error, "Cannot find device");
}

async::Task<> remove_node(std::shared_ptr<qmp::Session> session, std::string node, bool first,
                          async::Deadline deadline) {
    constexpr auto look_again = std::chrono::milliseconds(50);
    while (true) {
        Json arguments;
        arguments["node-name"] = node;
        std::exception_ptr failure;
        co_await async::keep_failure(session->execute("blockdev-del", std::move(arguments), deadline),
                                     failure);
        if (!failure) co_return;
        const Error error = to_error(failure);
        if (absent(error)) co_return;
        const bool in_use = says(error, "is in use");
        if (!first && (in_use || says(error, "not owned by the monitor"))) co_return;
        if (!in_use && !says(error, "not owned by the monitor")) throw error;
        if (async::Clock::now() + look_again > deadline)
            throw Error(ErrorCode::in_use, "QEMU still has block node {} in use: {}", quote(node),
                        error.what());
        co_await async::sleep_until(async::after(look_again));
    }
}

}  // namespace

std::vector<PlannedLayer> plan_layers(const Catalog& catalog, const Uuid& disk) {
    return plan_layers(catalog, disk, catalog.disk(disk).active);
}

std::vector<PlannedLayer> plan_layers(const Catalog& catalog, const Uuid& owner, const Uuid& top) {
    std::vector<PlannedLayer> layers;
    for (const Uuid& volume : catalog.chain(top)) {
        const std::string name = short_id(owner) + "-" + short_id(volume);
        const VolumeRecord& record = catalog.volume(volume);
        layers.push_back({volume, "vc-" + name, "vcf-" + name, catalog.path(record), record.format});
    }
    return layers;
}

std::string node_name_of(const Uuid& owner) {
    return "vc-" + short_id(owner);
}

async::Task<> inspect_chain(Engine& engine, Uuid disk) {
    const Catalog& catalog = engine.catalog();
    co_await engine.inspect_volumes(catalog.volumes_of_disk(disk));
    co_await inspect_layers(engine, catalog.disk(disk).active);
}

async::Task<> inspect_layers(Engine& engine, Uuid top) {
    const Catalog& catalog = engine.catalog();
    co_await engine.inspect_volumes(catalog.chain(top));  // also what belongs to another disk
    const std::vector<Uuid> chain = catalog.chain(top);
    check_complete(catalog, chain);
    for (const Uuid& id : chain) {
        const VolumeRecord& volume = catalog.volume(id);
        // What a guest wrote into a raw image means nothing: QEMU is told that it is one.
        if (volume.format == VolumeFormat::raw) continue;
        auto look = [pool = catalog.pool(volume.pool).path, file = volume.file] {
            (void)inspect_foreign_image(pool, file, VolumeFormat::qcow2);
        };
        co_await engine.files().run(std::move(look));
    }
}

async::Task<> add_layers(Engine& engine, std::shared_ptr<qmp::Session> session,
                         std::vector<PlannedLayer> layers, qmp::NodeOptions options, qmp::Access top) {
    for (std::size_t index = layers.size(); index-- > 0;) {
        const qmp::Access access = index == 0 ? top : qmp::Access::read_only;
        Json node = node_of(layers[index], access, options);
        const bool bottom = index + 1 == layers.size();
        if (!bottom) node = qmp::with_backing(std::move(node), layers[index + 1].node);
        (void)co_await session->execute("blockdev-add", std::move(node),
                                        async::after(engine.settings().command_timeout));
    }
}

std::vector<std::string> nodes_below(const qmp::BlockGraph& graph, const std::string& root) {
    std::vector<std::string> order;
    std::vector<std::string> next{root};
    // QEMU keeps the graph free of cycles; this ends all the same.
    const std::size_t limit = graph.nodes().size() * graph.nodes().size();
    for (std::size_t steps = 0; !next.empty() && steps < limit; ++steps) {
        const std::string name = next.front();
        next.erase(next.begin());
        const qmp::Node* const node = graph.find(name);
        if (node == nullptr) continue;
        // Found again further down: it comes after both of those that stand on it.
        std::erase(order, name);
        order.push_back(name);
        for (const qmp::Node::Child& child : node->children) next.push_back(child.node);
    }
    return order;
}

async::Task<> remove_nodes(std::shared_ptr<qmp::Session> session, std::vector<std::string> nodes,
                           async::Deadline deadline) {
    bool first = true;
    for (const std::string& node : nodes) {
        co_await remove_node(session, node, first, deadline);
        first = false;
    }
}

}  // namespace volchain::storage
