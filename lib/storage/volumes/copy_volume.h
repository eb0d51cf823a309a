// SPDX-License-Identifier: MIT
//
// CopyVolume: a new image that shows what a volume shows, through all that it stands on, and stands on nothing itself. As a
// reflink where the file system has that and the volume is one file; else by a mirror in a storage daemon of its own, so
// that a VM that runs on top of the volume is not troubled. Nothing may write to the volume meanwhile: the caller holds it
// (holds.h), and records or removes what was made.
#pragma once

#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct CopyOrder {
    CopyOrder(const Uuid& from, NewFile to, ImageOptions like)
        : source(from), target(std::move(to)), image(std::move(like)) {}

    Uuid source;
    NewFile target;      ///< is made; whatever may open the source may open it
    ImageOptions image;  ///< as large as the source
};

/// What will have to be copied at most, in bytes.
[[nodiscard]] std::uint64_t copy_cost(const Catalog& catalog, const Uuid& source);

/// Whether a reflink of the source's file would be the image that is asked for; the file system is not asked.
[[nodiscard]] bool may_be_reflink(const Catalog& catalog, const CopyOrder& order);

/// Whether it could be done by a reflink. `done_before`, `total`: bytes of the whole operation, for progress. When this
/// returns the image is on the medium.
async::Task<bool> copy_volume(Engine& engine, JobPtr job, CopyOrder order, std::uint64_t done_before,
                              std::uint64_t total);

}  // namespace volchain::storage
