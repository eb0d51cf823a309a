// SPDX-License-Identifier: MIT
#include "storage/qemu/disk_activation.h"

#include <string>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "qmp/schema.h"
#include "storage/qemu/run_state.h"

namespace volchain::storage {
namespace {

/// QEMU activates a node that is to be exported before it looks for an NBD server (block/export/export.c, blk_exp_add();
/// until 10.0, which has a command for it). Mostly there is none, and so no export; one that came about goes again.
async::Task<> activate_by_export(std::shared_ptr<qmp::Session> session, std::string node, std::string id,
                                 async::Deadline deadline) {
    Json arguments;
    arguments["type"] = "nbd";
    arguments["id"] = id;
    arguments["node-name"] = node;
    try {
        (void)co_await session->execute("block-export-add", std::move(arguments), deadline);
    } catch (const qmp::CommandError& error) {
        log().debug("node {}: {}", quote(node), error.description());
        co_return;
    }
    Json gone;
    gone["id"] = id;
    gone["mode"] = "hard";
    (void)co_await session->execute("block-export-del", std::move(gone), deadline);
}

async::Task<std::vector<std::string>> all_nodes(std::shared_ptr<qmp::Session> session,
                                                async::Deadline deadline) {
    Json flat;
    flat["flat"] = true;
    const Json answer = co_await session->execute("query-named-block-nodes", std::move(flat), deadline);
    std::vector<std::string> nodes;
    for (const JsonReader& node :
         JsonReader(answer, "query-named-block-nodes", ErrorCode::qemu_failed).elements())
        nodes.push_back(node.at("node-name").string());
    co_return nodes;
}

}  // namespace

async::Task<> activate_disks(std::shared_ptr<qmp::Session> session, async::Deadline deadline) {
    const std::string state = co_await run_state_after_migration(session, deadline);
    if (state != "postmigrate") co_return;
    const auto schema = co_await session->schema(deadline);
    if (schema->has_command("blockdev-set-active")) {
        Json arguments;
        arguments["active"] = true;
        (void)co_await session->execute("blockdev-set-active", std::move(arguments), deadline);
        co_return;
    }
    const std::vector<std::string> nodes = co_await all_nodes(session, deadline);
    for (std::size_t index = 0; index < nodes.size(); ++index) {
        std::string id = fmt::format("volchain-activate-{}", index);
        co_await activate_by_export(session, nodes[index], std::move(id), deadline);
    }
}

}  // namespace volchain::storage
