// SPDX-License-Identifier: MIT
#include "storage/checks/bitmap_findings.h"

#include <algorithm>

#include "base/text.h"

namespace volchain::storage {
namespace {

/// What is known of one bitmap, from QEMU or from the image.
struct LayerBitmap {
    std::string name;
    bool recording = false;
    bool lost = false;  ///< not saved: inconsistent
};

class BitmapFinder {
  public:
    BitmapFinder(const Catalog& catalog, const DiskView& view, Findings& findings)
        : catalog_(catalog), view_(view), findings_(findings) {}

    void find() {
        for (const Uuid& volume : catalog_.volumes_of_disk(view_.disk))
            for (const LayerBitmap& bitmap : bitmaps_of(volume))
                if (bitmap.lost) lost(volume, bitmap.name);
        holes();
    }

  private:
    [[nodiscard]] std::string name(const Uuid& id) const {
        return catalog_.describe({ObjectKind::volume, id});
    }
    [[nodiscard]] const qmp::Node* node_of(const Uuid& id) const {
        return view_.qemu.layer(catalog_.path(catalog_.volume(id)));
    }

    [[nodiscard]] std::vector<LayerBitmap> bitmaps_of(const Uuid& id) const {
        std::vector<LayerBitmap> bitmaps;
        // What a QEMU has open for writing is in the image only when it is closed.
        if (const qmp::Node* node = node_of(id)) {
            for (const qmp::DirtyBitmap& bitmap : node->bitmaps)
                if (bitmap.persistent)
                    bitmaps.push_back({bitmap.name, bitmap.recording, bitmap.inconsistent});
            return bitmaps;
        }
        if (view_.look(id).written) return bitmaps;
        for (const qcow2::Bitmap& bitmap : catalog_.facts(id).bitmaps)
            bitmaps.push_back({bitmap.name, bitmap.recording, bitmap.in_use});
        return bitmaps;
    }

    [[nodiscard]] bool has(const Uuid& id, const std::string& bitmap) const {
        const std::vector<LayerBitmap> all = bitmaps_of(id);
        return std::any_of(all.begin(), all.end(),
                           [&](const LayerBitmap& one) { return one.name == bitmap; });
    }

    /// A volume above, in whatever branch, that has a bitmap of that name; nil where none has.
    [[nodiscard]] Uuid continued_in(const Uuid& id, const std::string& bitmap) const {
        std::set<Uuid> seen{id};
        std::vector<Uuid> next = catalog_.children(id);
        while (!next.empty()) {
            const Uuid child = next.back();
            next.pop_back();
            if (!seen.insert(child).second) continue;
            // Of one that is open for writing elsewhere nobody knows.
            const bool known = node_of(child) != nullptr || !view_.look(child).written;
            if (!known || has(child, bitmap)) return child;
            for (const Uuid& above : catalog_.children(child)) next.push_back(above);
        }
        return {};
    }

    void lost(const Uuid& id, const std::string& bitmap) {
        const std::string what = fmt::format(
            "bitmap {} of {} was not saved when the image was last open: it is worth "
            "nothing, and the next backup is a full one",
            quote(bitmap), name(id));
        if (const Uuid above = continued_in(id, bitmap)) {
            findings_
                .emplace_back(
                    FindingKind::bitmap, Severity::warning,
                    fmt::format("{}; it stays, as what {} has under this name would look whole without it",
                                what, name(above)))
                .of(catalog_, id);
            return;
        }
        Finding& finding =
            findings_.emplace_back(FindingKind::bitmap, Severity::warning, what).of(catalog_, id);
        if (!valid_utf8(bitmap) || !others_readable(catalog_, id)) return;
        const qmp::Node* const node = node_of(id);
        const bool can_go = node != nullptr ? !node->read_only : !view_.look(id).used;
        if (can_go)
            finding.mended_by(Remedy::remove_bitmap, bitmap);
        else
            finding.message += "; it can be removed when no process has the image open";
    }

    /// Recordings that go on in the active chain below a layer that has no part of them.
    void holes() {
        const std::vector<Uuid> chain = catalog_.chain(catalog_.disk(view_.disk).active);
        for (const LayerBitmap& bitmap : bitmaps_of(chain.front())) {
            if (bitmap.lost || !bitmap.recording) continue;
            Uuid hole;
            for (const Uuid& layer : chain) {
                const bool there = has(layer, bitmap.name);
                if (!there && hole.nil()) hole = layer;
                if (!there || hole.nil()) continue;
                findings_
                    .emplace_back(
                        FindingKind::bitmap, Severity::info,
                        fmt::format("the recording of bitmap {} has a hole: {} has no part of it, but {} "
                                    "below has; the next backup is a full one",
                                    quote(bitmap.name), name(hole), name(layer)))
                    .of(catalog_, chain.front());
                break;
            }
        }
    }

    const Catalog& catalog_;
    const DiskView& view_;
    Findings& findings_;
};

}  // namespace

void find_bitmaps(const Catalog& catalog, const DiskView& view, Findings& findings) {
    BitmapFinder(catalog, view, findings).find();
}

}  // namespace volchain::storage
