// SPDX-License-Identifier: MIT
//
// Finding: one thing that a check of a disk has to say: what is wrong, how bad that is, what it means and what can be
// done, and how the check itself mends it where that is safe. A value: made by those who look (record_findings.h,
// mark_findings.h, graph_findings.h, bitmap_findings.h, image_check.h, stray_files.h), mended by Mending (mending.h), told
// in the job's result.
#pragma once

#include <string>
#include <vector>

#include "storage/records/catalog.h"

namespace volchain::storage {

enum class FindingKind {
    missing,     ///< a volume's file is not there
    foreign,     ///< a backing file that is no volume
    orphan,      ///< a file that no record knows
    illegal,     ///< a volume that stands for nothing by itself: a merge that did not come to its end
    leftover,    ///< a volume that stays only as long as several stand on it
    unused,      ///< a volume that nothing leads to
    header,      ///< a header that names what it must not, or not what the records say
    format,      ///< a volume is of another format than is recorded
    size,        ///< a volume is smaller than what it stands on
    dirty,       ///< an image that was not closed in order
    leak,        ///< clusters that nothing in the image refers to
    corruption,  ///< an image that is damaged
    bitmap,      ///< a dirty bitmap that is worth nothing
    graph,       ///< QEMU has the disk in another way than it is recorded
    snapshot,    ///< a snapshot that does not have what it names, or that is neither there nor gone
    record,      ///< a record that means nothing any more
    pool,        ///< a pool that is not there, or cannot be written
    unchecked,   ///< what could not be looked at, and why
};
constexpr auto enum_names(FindingKind) {
    return std::to_array<EnumName<FindingKind>>({{FindingKind::missing, "missing"},
                                                 {FindingKind::foreign, "foreign"},
                                                 {FindingKind::orphan, "orphan"},
                                                 {FindingKind::illegal, "illegal"},
                                                 {FindingKind::leftover, "leftover"},
                                                 {FindingKind::unused, "unused"},
                                                 {FindingKind::header, "header"},
                                                 {FindingKind::format, "format"},
                                                 {FindingKind::size, "size"},
                                                 {FindingKind::dirty, "dirty"},
                                                 {FindingKind::leak, "leak"},
                                                 {FindingKind::corruption, "corruption"},
                                                 {FindingKind::bitmap, "bitmap"},
                                                 {FindingKind::graph, "graph"},
                                                 {FindingKind::snapshot, "snapshot"},
                                                 {FindingKind::record, "record"},
                                                 {FindingKind::pool, "pool"},
                                                 {FindingKind::unchecked, "unchecked"}});
}

enum class Severity {
    info,     ///< nothing is wrong, but it should be known
    warning,  ///< nothing is lost; room is wasted, or something will not work
    error,    ///< data is lost or in danger, or the disk cannot be used
};
constexpr auto enum_names(Severity) {
    return std::to_array<EnumName<Severity>>(
        {{Severity::info, "info"}, {Severity::warning, "warning"}, {Severity::error, "error"}});
}

/// What a check does about a finding where it is asked to. Each one loses nothing that could be used, and can be done
/// again after a crash.
enum class Remedy {
    none,
    free_leaks,     ///< "qemu-img check -r leaks"
    remove_bitmap,  ///< `what`: its name
    unlink_file,    ///< Finding::path, once nothing is seen that needs it
    drop_volume,    ///< its record and its file
    forget_volume,  ///< its record: its file is gone
    clear_mark,
    forget_former,
    fail_snapshot,  ///< so that it can be deleted again; `what`: its id
    delete_node,    ///< `what`: its name
};

struct Finding {
    Finding(FindingKind kind_of_it, Severity how_bad, std::string text)
        : kind(kind_of_it), severity(how_bad), message(std::move(text)) {}

    /// The volume that it is about.
    Finding& of(const Catalog& catalog, const Uuid& id);
    /// The file that it is about.
    Finding& at(std::string file);
    Finding& mended_by(Remedy how, std::string object = {});

    [[nodiscard]] Json json() const;

    FindingKind kind;
    Severity severity;
    std::string message;  ///< names the object, says what it means and the way out
    Uuid volume;          ///< nil: it is about none
    std::string path;     ///< empty: it is about no file
    Remedy remedy = Remedy::none;
    std::string what;  ///< what the remedy is about
    bool repaired = false;
};

using Findings = std::vector<Finding>;

}  // namespace volchain::storage
