// SPDX-License-Identifier: MIT
#include "storage/qemu/open_chain.h"

#include "base/text.h"
#include "qmp/image_lock.h"
#include "storage/qemu/workplace.h"

namespace volchain::storage {
namespace {

void check_layer(const Catalog& catalog, const Uuid& volume) {
    const VolumeFacts& facts = catalog.facts(volume);
    if (facts.state == VolumeState::ok) return;
    const bool missing = facts.state == VolumeState::missing;
    throw Error(missing ? ErrorCode::broken_chain : ErrorCode::corrupt_image, "{} is {}: {}",
                catalog.describe({ObjectKind::volume, volume}), word(facts.state), facts.problem);
}

void check_bottom(const Catalog& catalog, const Uuid& volume) {
    const auto& reference = catalog.facts(volume).backing;
    if (!reference) return;
    const std::string what = catalog.describe({ObjectKind::volume, volume});
    if (catalog.backing(volume).nil())
        throw Error(ErrorCode::broken_chain, "{} stands on {}, which is no volume of ours; import it first",
                    what, quote(reference->name));
    throw Error(ErrorCode::broken_chain, "the chain below {} comes back to itself", what);
}

}  // namespace

ChainFiles::ChainFiles(const Catalog& catalog, const Uuid& top) : volumes(catalog.chain(top)) {
    if (catalog.volume(top).mark == VolumeMark::illegal)
        throw Error(ErrorCode::unsupported,
                    "{} is illegal: a merge into it was not finished, and what it shows by itself stands for "
                    "nothing; finish that first",
                    catalog.describe({ObjectKind::volume, top}));
    for (const Uuid& volume : volumes) {
        check_layer(catalog, volume);
        files.push_back(layer_file(catalog, volume));
    }
    check_bottom(catalog, volumes.back());
}

async::Task<ChainFiles> settle_chain(Engine& engine, Uuid volume) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& disk = catalog.disk(catalog.volume(volume).disk);
    const bool written = disk.active == volume;
    bool flushed = false;
    const Uuid vm = disk.vm;
    if (written && vm) {
        co_await engine.vm(vm).look_now(async::after(engine.settings().greeting_timeout * 2));
        if (!engine.vm(vm).live() && !engine.vm(vm).down())
            (void)engine.vm(vm).session();  // throws Unreachable, and why
        co_await engine.refuse_incoming(vm);
        const auto place = Workplace::in_vm(engine, volume);
        if (place) co_await place->flush(volume);
        flushed = place != nullptr;
    }
    ChainFiles chain(catalog, volume);
    chain.unguarded = written && !flushed;
    co_return chain;
}

OpenChain::OpenChain(const ChainFiles& chain) {
    for (const LayerFile& file : chain.files) {
        layers_.emplace_back(file);
        names_.push_back(quote(file.path()));
    }
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
        const auto& named = layers_[layer].backing();
        const bool bottom = layer + 1 == layers_.size();
        if (bottom ? named.has_value() : named != chain.files[layer + 1].path())
            throw Error(ErrorCode::busy, "the chain of volume {} has just been changed; ask again",
                        names_.front());
    }
    if (chain.unguarded && qmp::is_in_use_for_writing(layers_.front().fd()))
        throw Error(ErrorCode::in_use,
                    "another process writes to volume {}: a VM that is not known here, or a tool; register "
                    "the VM, or "
                    "wait for the end of the tool",
                    names_.front());
}

qcow2::ChainMap OpenChain::map(std::size_t first, std::size_t last) {
    std::vector<qcow2::NamedLayer> layers;
    for (std::size_t layer = first; layer < last; ++layer) {
        layers.emplace_back();
        layers.back().map = &layers_[layer].map();
        layers.back().name = names_[layer];
    }
    return qcow2::ChainMap(std::move(layers));
}

bool is_worth_another_look(const Error& error) {
    return error.code() == ErrorCode::busy || error.code() == ErrorCode::broken_chain ||
           error.code() == ErrorCode::corrupt_image;
}

async::Task<> run_slices(Engine& engine, Uuid pool, std::function<bool()> slice, std::string what) {
    const async::Deadline deadline = async::after(reading_limit);
    while (true) {
        auto work = slice;
        const bool last = co_await read_images(engine, pool, std::move(work));
        if (last) co_return;
        if (async::Clock::now() > deadline)
            throw Error(ErrorCode::timeout, "{} takes longer than {} seconds", what, reading_limit.count());
    }
}

}  // namespace volchain::storage
