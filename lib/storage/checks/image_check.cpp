// SPDX-License-Identifier: MIT
#include "storage/checks/image_check.h"

#include "base/text.h"
#include "storage/images/volume_lock.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// qemu-img tells nothing of how far it is. It reads the tables of an image, not its data: some 10 MiB for each 100 GiB.
constexpr auto check_limit = std::chrono::hours(4);

async::Task<qmp::QemuImg> qemu_img_for(Engine& engine, Uuid volume, bool write) {
    std::vector<ImageAccess> images;
    images.emplace_back(engine.catalog().path(engine.catalog().volume(volume)), write);
    co_return co_await helper_qemu_img(engine, std::move(images));
}

async::Task<Findings> look_inside(Engine& engine, Uuid volume, VolumeLook look) {
    // While it is held nobody begins to write.
    const qmp::ImageLock lock = co_await lock_for_reading(engine, volume);
    const qmp::QemuImg qemu_img = co_await qemu_img_for(engine, volume, false);
    std::string path = engine.catalog().path(engine.catalog().volume(volume));
    const Json report = co_await qemu_img.check(std::move(path), "qcow2", async::after(check_limit));
    co_return read_image_report(engine.catalog(), volume, look, report);
}

bool worth_a_check(const Catalog& catalog, const VolumeLook& look, const Uuid& volume) {
    const VolumeFacts& facts = catalog.facts(volume);
    if (facts.state != VolumeState::ok || !facts.header) return false;
    const qcow2::Features& features = facts.header->features;
    // Reference counts that lag behind would all be reported, and a data file would be opened.
    return !features.external_data_file && (!features.dirty || look.written);
}

Finding not_checked(const Catalog& catalog, const Uuid& volume, Severity severity, std::string_view why) {
    Finding finding(FindingKind::unchecked, severity,
                    fmt::format("the inside of {} was not checked: {}",
                                catalog.describe({ObjectKind::volume, volume}), why));
    finding.of(catalog, volume);
    return finding;
}

}  // namespace

std::uint64_t checkable_bytes(const Catalog& catalog, const DiskView& view, const Uuid& volume) {
    return worth_a_check(catalog, view.look(volume), volume) ? catalog.facts(volume).allocated : 0;
}

async::Task<Findings> check_image(Engine& engine, Uuid volume, VolumeLook look, bool open_in_vm) {
    const Catalog& catalog = engine.catalog();
    Findings findings;
    if (!worth_a_check(catalog, look, volume)) co_return findings;
    if (open_in_vm) {
        findings.push_back(
            not_checked(catalog, volume, Severity::info,
                        "its running VM has it open for writing; check it again when that is down"));
        co_return findings;
    }
    std::exception_ptr failure;
    co_await async::keep_result(look_inside(engine, volume, look), findings, failure);
    if (!failure) co_return findings;
    const Error error = to_error(failure);
    if (error.code() == ErrorCode::cancelled) throw error;
    findings.push_back(not_checked(catalog, volume, Severity::warning, error.what()));
    co_return findings;
}

Findings read_image_report(const Catalog& catalog, const Uuid& volume, const VolumeLook& look,
                           const Json& report) {
    const JsonReader reader(report, "report of qemu-img check", ErrorCode::qemu_failed);
    const std::uint64_t corruptions = reader.u64_or("corruptions", 0);
    const std::uint64_t leaks = reader.u64_or("leaks", 0);
    const std::string name = catalog.describe({ObjectKind::volume, volume});
    Findings findings;
    if (corruptions > 0)
        findings
            .emplace_back(
                FindingKind::corruption, Severity::error,
                fmt::format("{} is damaged in {} places (qemu-img check): copy what can be read, or bring it "
                            "back from a backup ('qemu-img check -r all' on a copy may help)",
                            name, corruptions))
            .of(catalog, volume);
    if (leaks == 0) return findings;
    Finding& finding =
        findings
            .emplace_back(FindingKind::leak, Severity::warning,
                          fmt::format("{} clusters of {} are taken and hold nothing: room is wasted, no more",
                                      leaks, name))
            .of(catalog, volume);
    // In a damaged image what seems to be taken for nothing may be what the damage has cut off.
    if (corruptions > 0 || catalog.facts(volume).header->features.corrupt)
        finding.message += "; they stay, as the image is damaged";
    else if (look.used)
        finding.message += "; they can be freed when no process has the image open";
    else
        finding.mended_by(Remedy::free_leaks);
    return findings;
}

async::Task<> free_leaks(Engine& engine, Uuid volume) {
    const qmp::QemuImg qemu_img = co_await qemu_img_for(engine, volume, true);
    std::string path = engine.catalog().path(engine.catalog().volume(volume));
    const Json report = co_await qemu_img.free_leaks(std::move(path), async::after(check_limit));
    const JsonReader reader(report, "report of qemu-img check", ErrorCode::qemu_failed);
    if (reader.u64_or("leaks", 0) > 0)
        throw Error(ErrorCode::qemu_failed, "{} clusters could not be freed", reader.u64_or("leaks", 0));
}

}  // namespace volchain::storage
