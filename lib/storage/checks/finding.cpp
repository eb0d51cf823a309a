// SPDX-License-Identifier: MIT
#include "storage/checks/finding.h"

#include "base/text.h"

namespace volchain::storage {

Finding& Finding::of(const Catalog& catalog, const Uuid& id) {
    volume = id;
    path = catalog.path(catalog.volume(id));
    return *this;
}

Finding& Finding::at(std::string file) {
    path = std::move(file);
    return *this;
}

Finding& Finding::mended_by(Remedy how, std::string object) {
    remedy = how;
    what = std::move(object);
    return *this;
}

Json Finding::json() const {
    Json record;
    record["kind"] = word(kind);
    record["severity"] = word(severity);
    // What QEMU says may hold bytes of an image.
    record["message"] = valid_utf8(message) ? message : quote(message);
    record["repairable"] = remedy != Remedy::none;
    record["repaired"] = repaired;
    if (volume) record["volume"] = object_json({ObjectKind::volume, volume});
    if (!path.empty()) record["path"] = path;
    return record;
}

}  // namespace volchain::storage
