// SPDX-License-Identifier: MIT
//
// SnapshotXml: libvirt's <domainsnapshot> document as plain values, read and written. The reader takes bytes from
// anybody: no document type, so no entities but XML's own five; nothing is fetched; sizes are limited. It says what a
// document holds; what that means for a VM's records, and whether it can be, is for snapshot_documents.h.
//
// What libvirt has no place for (ids, which volume holds the content, how consistent it is) stands in the element
// <cookie>, which libvirt's schema leaves to programs and libvirt itself passes over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/uuid.h"

namespace volchain::storage {

inline constexpr std::size_t max_snapshot_xml = std::size_t{16} << 20;

/// One <disk>.
struct XmlSnapshotDisk {
    std::string name;  ///< the target in the guest ("vda"), or a path
    std::string mode;  ///< external, no, internal, manual; empty: not said
    std::string type;  ///< of the source: file, block, network
    std::string format;
    std::string source;  ///< path of the image that covers the snapshot's content; empty: not said
    friend bool operator==(const XmlSnapshotDisk&, const XmlSnapshotDisk&) = default;
};

/// One disk as volchain itself has recorded it.
struct XmlOwnDisk {
    Uuid disk;
    Uuid volume;
    std::string file;  ///< path of the volume
    friend bool operator==(const XmlOwnDisk&, const XmlOwnDisk&) = default;
};

struct XmlLeftOutDisk {
    Uuid disk;
    std::string why;
    friend bool operator==(const XmlLeftOutDisk&, const XmlLeftOutDisk&) = default;
};

/// A copy of a variable store of the firmware.
struct XmlOwnNvram {
    std::string store;
    std::string file;
    friend bool operator==(const XmlOwnNvram&, const XmlOwnNvram&) = default;
};

/// What volchain wrote into a document of its own.
struct XmlOwnPart {
    Uuid id;
    std::string description;  ///< with the line ends that it had
    std::uint64_t created_usec = 0;
    std::string vm_state;
    std::string consistency;
    std::string origin;
    bool current = false;
    std::vector<XmlOwnDisk> disks;
    std::vector<XmlLeftOutDisk> excluded;
    std::vector<XmlOwnNvram> nvram;
    std::string config_type;
    std::string config;
    friend bool operator==(const XmlOwnPart&, const XmlOwnPart&) = default;
};

struct SnapshotXml {
    std::string name;
    std::string description;
    std::string state;
    std::optional<std::uint64_t> created_sec;
    std::string parent;       ///< name; empty: none
    std::string memory;       ///< no, internal, external; empty: not said
    std::string memory_file;  ///< where external
    bool active = false;
    std::vector<XmlSnapshotDisk> disks;
    std::optional<Uuid> domain;  ///< the UUID of the VM
    std::string domain_xml;      ///< the whole <domain>, where there is more of it than the UUID
    std::optional<XmlOwnPart> own;
    friend bool operator==(const SnapshotXml&, const SnapshotXml&) = default;
};

/// Throws InvalidArgument, naming what is wrong.
[[nodiscard]] SnapshotXml parse_snapshot_xml(std::string_view text);
/// A document that is valid by libvirt's domainsnapshot.rng. Characters that XML cannot hold become U+FFFD.
[[nodiscard]] std::string format_snapshot_xml(const SnapshotXml& snapshot);

/// What a VM's configuration, where it is libvirt's <domain>, says of it and its disks.
struct XmlDomain {
    struct Disk {
        std::string target;
        std::string serial;
        std::string source;
    };
    std::optional<Uuid> uuid;
    std::vector<Disk> disks;
};
/// None where it is something else.
[[nodiscard]] std::optional<XmlDomain> read_domain_xml(std::string_view text);

/// Whether <disk> may be called so: a target as libvirt has them.
[[nodiscard]] bool is_libvirt_target(std::string_view name);

}  // namespace volchain::storage
