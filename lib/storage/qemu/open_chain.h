// SPDX-License-Identifier: MIT
//
// OpenChain: a volume and all that it stands on, open for reading, with the maps of what is seen through it. It is read
// without QEMU, from the tables of the images alone, and holds no locks: whoever has one asks settle_chain() first.
//
// What is seen through a volume that nobody writes to stays the same whatever is merged below it meanwhile, and the files
// that were open stay readable. So all that can go wrong is that the chain changes between the look at the records and the
// opening of the files: Busy, and worth another try (read_chain()).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "async/deadline.h"
#include "qcow2/chain_map.h"
#include "storage/engine.h"
#include "storage/images/layer_file.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct ChainFiles {
    ChainFiles() = default;
    /// As the headers were last read. Throws what stands against reading it: CorruptImage and BrokenChain where a layer is
    /// damaged or not there, Unsupported where what the volume shows stands for nothing.
    ChainFiles(const Catalog& catalog, const Uuid& top);

    std::vector<Uuid> volumes;  ///< the topmost first
    std::vector<LayerFile> files;
    /// Nobody is supposed to write to the topmost one, and nothing but QEMU's locks can tell: it is a disk's active one, and
    /// no VM of ours runs on it.
    bool unguarded = false;
};

/// The chain below a volume, once the tables on disk say what was written until now: where a running VM writes to the
/// volume, its QEMU is told to flush. What the guest writes from then on may or may not be in the tables.
[[nodiscard]] async::Task<ChainFiles> settle_chain(Engine& engine, Uuid volume);

/// Blocking: on a worker thread.
class OpenChain {
  public:
    /// Busy where the headers name other files than these; InUse where somebody writes to one that is unguarded.
    explicit OpenChain(const ChainFiles& chain);

    [[nodiscard]] std::size_t size() const noexcept { return layers_.size(); }
    [[nodiscard]] std::uint64_t virtual_size() { return layers_.front().map().virtual_size(); }
    /// What is seen through the layers from number `first` to the one before `last`, 0 being the topmost. A layer belongs
    /// to one such map, which does not outlive this.
    [[nodiscard]] qcow2::ChainMap map(std::size_t first, std::size_t last);

  private:
    std::vector<OpenLayer> layers_;
    std::vector<std::string> names_;
};

/// Runs `once`, which reads the chains of these volumes, and again where a chain changed under it or a guest was just
/// changing a table; not for ever.
template <typename T>
async::Task<T> read_chains(Engine& engine, std::vector<Uuid> volumes, std::function<async::Task<T>()> once);

/// Whether that may have been the reason.
[[nodiscard]] bool is_worth_another_look(const Error& error);

/// Runs blocking work on the threads that read the pool; Timeout where that hangs.
template <typename Work>
async::Task<std::invoke_result_t<Work&>> read_images(Engine& engine, Uuid pool, Work work);

/// The same in slices, until one of them says that it was the last. `what`, for messages, is given up with Timeout when
/// it takes too long.
async::Task<> run_slices(Engine& engine, Uuid pool, std::function<bool()> slice, std::string what);

/// How long one slice should take.
inline constexpr auto slice_limit = std::chrono::seconds(1);
/// How long anybody waits for what is read.
inline constexpr auto reading_limit = std::chrono::seconds(60);

template <typename Work>
async::Task<std::invoke_result_t<Work&>> read_images(Engine& engine, Uuid pool, Work work) {
    auto reading = engine.readers(pool).run(std::move(work));
    co_return co_await async::with_deadline(std::move(reading), async::after(reading_limit),
                                            "the images to be read");
}

template <typename T>
async::Task<T> read_chains(Engine& engine, std::vector<Uuid> volumes, std::function<async::Task<T>()> once) {
    constexpr int tries = 4;
    std::exception_ptr failure;
    for (int attempt = 0; attempt < tries; ++attempt) {
        failure = nullptr;
        T result{};
        co_await async::keep_result(once(), result, failure);
        if (!failure) co_return result;
        if (!is_worth_another_look(to_error(failure))) break;
        std::vector<Uuid> layers;
        for (const Uuid& volume : volumes)
            for (const Uuid& layer : engine.catalog().chain(volume)) layers.push_back(layer);
        co_await engine.inspect_volumes(std::move(layers));
    }
    std::rethrow_exception(failure);
}

}  // namespace volchain::storage
