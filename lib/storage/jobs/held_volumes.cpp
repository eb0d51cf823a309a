// SPDX-License-Identifier: MIT
#include "storage/jobs/held_volumes.h"

#include <algorithm>

namespace volchain::storage {
namespace {

bool stands_on(const Catalog& catalog, const ExportRecord& record, const Uuid& volume) {
    if (record.volume == volume) return true;
    if (!catalog.has({ObjectKind::volume, record.volume})) return false;
    const std::vector<Uuid> chain = catalog.chain(record.volume);
    return std::find(chain.begin(), chain.end(), volume) != chain.end();
}

/// The first of all exports, recorded or about to be, of which `condition` is true.
template <typename Condition>
const ExportRecord* first_export(const Catalog& catalog, const Condition& condition) {
    for (const auto* all : {&catalog.exports(), &catalog.claimed_exports()})
        for (const auto& [id, record] : *all)
            if (condition(record)) return &record;
    return nullptr;
}

[[noreturn]] void refuse(const Catalog& catalog, const ObjectId& object, const ExportRecord& holder) {
    if (holder.backup)
        throw Error(ErrorCode::busy, "{} is being backed up: {} of user {} shows it; finish or abort that",
                    catalog.describe(object), catalog.describe({ObjectKind::backup, holder.backup}),
                    holder.owner_uid);
    throw Error(ErrorCode::busy, "{} is exported: {} of user {} shows what it holds; stop that first",
                catalog.describe(object), catalog.describe({ObjectKind::exported, holder.id}),
                holder.owner_uid);
}

}  // namespace

const ExportRecord* export_holding(const Catalog& catalog, const Uuid& volume) {
    return first_export(catalog,
                        [&](const ExportRecord& record) { return stands_on(catalog, record, volume); });
}

void check_not_exported(const Catalog& catalog, const Uuid& volume) {
    if (const ExportRecord* holder = export_holding(catalog, volume))
        refuse(catalog, {ObjectKind::volume, volume}, *holder);
}

void check_snapshot_not_exported(const Catalog& catalog, const Uuid& snapshot) {
    const auto of_snapshot = [&](const ExportRecord& record) { return record.snapshot == snapshot; };
    if (const ExportRecord* holder = first_export(catalog, of_snapshot))
        refuse(catalog, {ObjectKind::snapshot, snapshot}, *holder);
}

}  // namespace volchain::storage
