// SPDX-License-Identifier: MIT
//
// Workplace: where a chain of volumes is open to be worked on, with the same commands in either: the QEMU of the VM that
// runs on it, or a storage daemon of our own that has opened it. The operation owns it.
//
// In a storage daemon all layers below the top one are opened as QEMU opens backing files, read-only until a job asks for
// more: else their bitmaps would be "in use" on disk, and lost at a crash.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "qmp/storage_daemon.h"
#include "storage/engine.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {

class Workplace {
  public:
    /// The VM that has the volume's file open as a layer of a disk of its own; null where there is none.
    [[nodiscard]] static std::shared_ptr<Workplace> in_vm(Engine& engine, const Uuid& volume);
    /// A storage daemon with `top` and all that it stands on. `written`: the volumes that the work writes to, `top` is
    /// open for writing where it is one of them. InUse where another process holds one of the images.
    [[nodiscard]] static async::Task<std::shared_ptr<Workplace>> open(Engine& engine, Uuid top,
                                                                      std::set<Uuid> written);
    /// The same for work that only reads the chain, and writes to a new image, which the caller opens.
    [[nodiscard]] static async::Task<std::shared_ptr<Workplace>> open_to_copy(Engine& engine, Uuid top,
                                                                              std::string new_image);

    /// The same in a storage daemon that was started for it and may open the images of `chain`, the topmost first.
    [[nodiscard]] static async::Task<std::shared_ptr<Workplace>> open_in(
        Engine& engine, std::shared_ptr<qmp::StorageDaemon> helper, std::vector<Uuid> chain,
        std::set<Uuid> written);

    [[nodiscard]] bool live() const noexcept { return helper_ == nullptr; }
    [[nodiscard]] const std::shared_ptr<qmp::Session>& session() const noexcept { return session_; }
    [[nodiscard]] bool has(const Uuid& volume) const { return nodes_.contains(volume); }
    /// The node of a volume. BrokenChain where it is not open here.
    [[nodiscard]] const std::string& node(const Uuid& volume) const;
    /// The node at the top, which block jobs want to be named.
    [[nodiscard]] const std::string& root() const noexcept { return root_; }

    [[nodiscard]] async::Task<qmp::BlockGraph> graph();

    /// What was written to the volume, by a guest or a job, is on the medium when this returns, and what QEMU holds back of
    /// an image's tables, too: no job does that of itself, and the header that says that a backing file is not needed any
    /// more must not come before.
    async::Task<> flush(Uuid volume);

    /// Ends the storage daemon in order, which is when bitmaps are written; nothing is to be done for a VM.
    async::Task<> close();

  private:
    Workplace(Engine& engine, std::shared_ptr<qmp::Session> session)
        : engine_(engine), session_(std::move(session)) {}
    [[nodiscard]] static async::Task<std::shared_ptr<Workplace>> open_chain(Engine& engine, Uuid top,
                                                                            std::set<Uuid> written,
                                                                            std::vector<ImageAccess> others);
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }
    [[nodiscard]] async::Task<> flush_in_vm(Uuid volume);
    [[nodiscard]] async::Task<> add_layer(Uuid volume, bool writable, std::string below);

    Engine& engine_;
    std::shared_ptr<qmp::Session> session_;
    std::shared_ptr<qmp::StorageDaemon> helper_;
    std::map<Uuid, std::string> nodes_;
    std::map<Uuid, Json> added_;  ///< to a storage daemon: arguments of blockdev-add
    std::string root_;
};

}  // namespace volchain::storage
