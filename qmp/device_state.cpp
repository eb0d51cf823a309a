// SPDX-License-Identifier: MIT
#include "qmp/device_state.h"

#include "qmp/session.h"

namespace volchain::qmp {

async::Task<DeviceRoots> read_device_roots(std::shared_ptr<Session> session, async::Deadline deadline) {
    const Json answer = co_await session->execute("query-blockstats", Json::object(), deadline);
    DeviceRoots roots;
    for (const JsonReader& entry :
         JsonReader(answer, "answer of query-blockstats", ErrorCode::qemu_failed).elements()) {
        std::string root = entry.string_or("node-name", "");
        const std::string device = entry.string_or("qdev", "");
        // An empty drive; a drive that no device uses.
        if (!root.empty() && !device.empty()) roots.insert_or_assign(device, std::move(root));
    }
    co_return roots;
}

async::Task<RootBitmaps> read_root_bitmaps(std::shared_ptr<Session> session, async::Deadline deadline) {
    const Json answer = co_await session->execute("query-block", Json::object(), deadline);
    RootBitmaps bitmaps;
    for (const JsonReader& entry :
         JsonReader(answer, "answer of query-block", ErrorCode::qemu_failed).elements()) {
        const auto inserted = entry.find("inserted");
        if (!inserted) continue;
        std::vector<DirtyBitmap>& of_node = bitmaps[inserted->at("node-name").string()];
        of_node.clear();  // a node that two devices share
        if (const auto list = inserted->find("dirty-bitmaps"))
            for (const JsonReader& bitmap : list->elements()) of_node.push_back(DirtyBitmap::parse(bitmap));
    }
    co_return bitmaps;
}

}  // namespace volchain::qmp
