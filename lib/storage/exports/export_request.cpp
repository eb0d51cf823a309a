// SPDX-License-Identifier: MIT
#include "storage/exports/export_request.h"

#include <unistd.h>

#include <filesystem>

#include "base/text.h"
#include "storage/exports/export_device.h"
#include "storage/exports/export_listener.h"
#include "storage/exports/export_mount.h"

namespace volchain::storage {
namespace {

constexpr std::size_t max_checkpoint_bytes = 1000;  // BDRV_BITMAP_MAX_NAME_SIZE is 1023

[[noreturn]] void refuse_export_option(std::string_view option, std::string_view why) {
    throw Error(ErrorCode::invalid_argument, "option '{}' {}", option, why);
}

void check_tcp(const ExportRequest& request) {
    if (request.address.empty() && request.tls_credentials.empty()) return;
    if (request.tls_credentials.empty())
        refuse_export_option("address",
                             "is for TCP, which is not served without TLS: name 'tls-credentials', too");
    if (request.address.empty())
        refuse_export_option("tls-credentials", "is for TCP: name the 'address', too");
    if (request.allowed_uid)
        refuse_export_option("allow-uid", "is for a Unix socket; over TCP, credentials decide");
    (void)TcpAddress::parse(request.address);
    if (!std::filesystem::path(request.tls_credentials).is_absolute())
        refuse_export_option("tls-credentials", "must be the absolute path of a directory");
}

}  // namespace

void check_export_request(const Engine& engine, const ExportRequest& request) {
    if (request.allowed_uid == UINT32_MAX) refuse_export_option("allow-uid", "is no user");
    const bool nbd = request.kind == ExportKind::nbd;
    if (!nbd && !request.since.empty()) refuse_export_option("since", "is for exports of kind nbd");
    if (!nbd && request.max_connections != 0)
        refuse_export_option("max-connections", "is for exports of kind nbd");
    if (!nbd && !request.address.empty()) refuse_export_option("address", "is for exports of kind nbd");
    if (!nbd && !request.tls_credentials.empty())
        refuse_export_option("tls-credentials", "is for exports of kind nbd");
    const bool device = request.kind == ExportKind::device;
    if (!device && request.appliance) refuse_export_option("vm", "is for exports of kind device");
    if (!device && !request.serial.empty()) refuse_export_option("serial", "is for exports of kind device");
    if (device && request.appliance.nil())
        refuse_export_option("vm", "is missing: the VM that the device is plugged into");
    if (device && request.allowed_uid) refuse_export_option("allow-uid", "is for exports of other kinds");
    check_serial(request.serial);
    if (request.kind == ExportKind::file) check_mounts_possible(engine);
    if (request.since.size() > max_checkpoint_bytes)
        refuse_export_option("since", "is too long for a checkpoint");
    check_tcp(request);
    const bool others = request.owner_uid != ::geteuid() ||
                        request.allowed_uid.value_or(request.owner_uid) != request.owner_uid;
    if (nbd && request.address.empty() && others && ::geteuid() != 0)
        throw Error(ErrorCode::unsupported,
                    "only a daemon that runs as root can let other users than its own connect");
}

ExportRecord new_export(const ExportRequest& request) {
    ExportRecord record;
    record.id = Uuid::make();
    record.kind = request.kind;
    record.state = ExportState::starting;
    record.writable = request.writable;
    record.owner_uid = request.owner_uid;
    record.allowed_uid = request.allowed_uid;
    record.caller = request.caller;
    if (request.time_to_live) record.expires = now() + *request.time_to_live;
    record.address = request.address;
    record.appliance = request.appliance;
    if (request.appliance)
        record.serial = request.serial.empty() ? export_device_id(record.id) : request.serial;
    return record;
}

}  // namespace volchain::storage
