// SPDX-License-Identifier: MIT
#include "storage/checkpoints/stored_bitmap.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {

async::Task<> add_stored_bitmap(Engine& engine, Uuid volume, std::string bitmap) {
    const std::string path = engine.catalog().path(engine.catalog().volume(volume));
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    const auto helper = co_await start_storage_daemon(engine, path);
    const qmp::NodeOptions options;
    Json file = qmp::file_node("file", path, qmp::Access::read_write, options);
    Json node = qmp::without_backing(
        qmp::format_node("image", "qcow2", std::move(file), qmp::Access::read_write, options));
    (void)co_await helper->session()->execute("blockdev-add", std::move(node), deadline);
    Json arguments{{"node", "image"}, {"name", bitmap}, {"persistent", true}};
    (void)co_await helper->session()->execute("block-dirty-bitmap-add", std::move(arguments), deadline);
    const bool clean = co_await helper->stop(deadline);
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
    co_await engine.inspect_volume(volume);
    const auto& stored = engine.catalog().facts(volume).bitmaps;
    const bool there = std::any_of(stored.begin(), stored.end(), [&](const qcow2::Bitmap& one) {
        return one.name == bitmap && one.recording && !one.in_use;
    });
    if (!there)
        throw Error(ErrorCode::no_space, "bitmap {} could not be stored in {}", quote(bitmap), quote(path));
}

}  // namespace volchain::storage
