// SPDX-License-Identifier: MIT
#include "storage/documents/snapshot_xml.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <pugixml.hpp>
#include <sstream>

#include "base/error.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

constexpr const char* own_namespace = "urn:volchain:snapshot:1";
constexpr const char* own_element = "volchain:snapshot";
constexpr unsigned parse_flags =
    pugi::parse_default | pugi::parse_doctype | pugi::parse_ws_pcdata_single | pugi::parse_declaration;

template <typename... Args>
[[noreturn]] void refuse_xml(fmt::format_string<Args...> format, Args&&... args) {
    throw Error(ErrorCode::invalid_argument, "snapshot document: {}",
                fmt::format(format, std::forward<Args>(args)...));
}

/// How many bytes at the start of a text are a character that XML 1.0 does not have: most control characters, U+FFFE and
/// U+FFFF. 0: none.
std::size_t unfit_start(std::string_view text) {
    const auto c = static_cast<unsigned char>(text.front());
    if (c < ' ' && c != '\t' && c != '\n' && c != '\r') return 1;
    const std::string_view three = text.substr(0, 3);
    return three == "\xef\xbf\xbe" || three == "\xef\xbf\xbf" ? 3 : 0;
}

bool fit_for_xml(std::string_view text) {
    for (; !text.empty(); text.remove_prefix(1))
        if (unfit_start(text) != 0) return false;
    return true;
}

std::string made_fit_for_xml(std::string_view text) {
    std::string fit;
    while (!text.empty()) {
        const std::size_t unfit = unfit_start(text);
        fit += unfit == 0 ? text.substr(0, 1) : "\xef\xbf\xbd";
        text.remove_prefix(std::max<std::size_t>(unfit, 1));
    }
    return fit;
}

// --- reading ---------------------------------------------------------------------------------------

/// All text directly in an element, however it is cut up by comments and CDATA sections.
std::string text_in(const pugi::xml_node& element) {
    std::string text;
    for (const pugi::xml_node& part : element.children()) {
        if (part.type() == pugi::node_element)
            refuse_xml("<{}> has an element in it where text belongs", element.name());
        if (part.type() == pugi::node_pcdata || part.type() == pugi::node_cdata) text += part.value();
    }
    if (!fit_for_xml(text) || !valid_utf8(text))
        refuse_xml("<{}> holds a character that XML does not have", element.name());
    // XML has but one line end; a writer has no way to keep another one.
    for (std::size_t at = text.find('\r'); at != std::string::npos; at = text.find('\r', at))
        text.replace(at, text.compare(at, 2, "\r\n") == 0 ? 2 : 1, "\n");
    return text;
}

std::string attribute(const pugi::xml_node& element, const char* name) {
    std::string value = element.attribute(name).value();
    if (!fit_for_xml(value) || !valid_utf8(value))
        refuse_xml("attribute {} of <{}> holds a character that XML does not have", name, element.name());
    return value;
}

std::string one_of_words(const pugi::xml_node& element, const char* name,
                         std::initializer_list<std::string_view> words) {
    std::string value = attribute(element, name);
    if (!value.empty() && std::find(words.begin(), words.end(), value) == words.end())
        refuse_xml("attribute {} of <{}> is {}", name, element.name(), quote(value));
    return value;
}

std::uint64_t number_in(const std::string& text, std::string_view what) {
    std::uint64_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    // As seconds it is multiplied by a million, as microseconds it has to go into SQLite.
    if (text.empty() || failure != std::errc() || end != text.data() + text.size() || value > (1ULL << 62))
        refuse_xml("{} is {}, which is no time", what, quote(text));
    return value;
}

Uuid xml_uuid(const std::string& text, std::string_view what) {
    const auto id = Uuid::parse(text);
    if (!id) refuse_xml("{} is {}, which is no UUID", what, quote(text));
    return *id;
}

pugi::xml_document load(std::string_view text) {
    if (text.size() > max_snapshot_xml) refuse_xml("larger than {} bytes", max_snapshot_xml);
    if (!valid_utf8(text) || !fit_for_xml(text))
        refuse_xml("not UTF-8, or with characters that XML does not have");
    pugi::xml_document document;
    const pugi::xml_parse_result result =
        document.load_buffer(text.data(), text.size(), parse_flags, pugi::encoding_utf8);
    if (!result) refuse_xml("{} at byte {}", result.description(), result.offset);
    unsigned elements = 0;
    for (const pugi::xml_node& node : document.children()) {
        if (node.type() == pugi::node_doctype)
            refuse_xml("a document type is not taken: it could define entities");
        if (node.type() == pugi::node_element) ++elements;
        const std::string encoding = node.attribute("encoding").value();
        if (node.type() == pugi::node_declaration && !encoding.empty() && encoding != "UTF-8" &&
            encoding != "utf-8")
            refuse_xml("it is in {}; only UTF-8 is read", quote(encoding));
    }
    if (elements != 1) refuse_xml("{} elements at the top, and not one", elements);
    return document;
}

XmlSnapshotDisk disk_in(const pugi::xml_node& element) {
    XmlSnapshotDisk disk;
    disk.name = attribute(element, "name");
    if (disk.name.empty()) refuse_xml("a <disk> without a name");
    disk.mode = one_of_words(element, "snapshot", {"external", "no", "internal", "manual"});
    disk.type = attribute(element, "type");
    const pugi::xml_node source = element.child("source");
    if (disk.type.empty() && source) disk.type = "file";
    disk.format = attribute(element.child("driver"), "type");
    disk.source = attribute(source, disk.type == "block" ? "dev" : "file");
    return disk;
}

XmlOwnPart own_part_in(const pugi::xml_node& element) {
    XmlOwnPart own;
    own.id = xml_uuid(attribute(element, "id"), "volchain's id");
    own.description = attribute(element, "description");
    own.created_usec = number_in(attribute(element, "created-usec"), "volchain's created-usec");
    own.vm_state = attribute(element, "vm-state");
    own.consistency = attribute(element, "consistency");
    own.origin = attribute(element, "origin");
    own.current = one_of_words(element, "current", {"yes", "no"}) == "yes";
    for (const pugi::xml_node& disk : element.children("volchain:disk"))
        own.disks.push_back({xml_uuid(attribute(disk, "id"), "a disk's id"),
                             xml_uuid(attribute(disk, "volume"), "a volume's id"), attribute(disk, "file")});
    for (const pugi::xml_node& disk : element.children("volchain:excluded")) {
        const std::string id = attribute(disk, "id");
        own.excluded.push_back({id.empty() ? Uuid{} : xml_uuid(id, "a disk's id"), attribute(disk, "why")});
    }
    for (const pugi::xml_node& copy : element.children("volchain:nvram"))
        own.nvram.push_back({attribute(copy, "store"), attribute(copy, "file")});
    if (const pugi::xml_node config = element.child("volchain:config")) {
        auto bytes = from_base64(text_in(config));
        if (!bytes) refuse_xml("the configuration is not base64");
        own.config = *std::move(bytes);
        own.config_type = attribute(config, "type");
    }
    return own;
}

void read_memory(const pugi::xml_node& element, SnapshotXml& snapshot) {
    snapshot.memory = one_of_words(element, "snapshot", {"no", "internal", "external"});
    snapshot.memory_file = attribute(element, "file");
    if (snapshot.memory.empty() && !snapshot.memory_file.empty()) snapshot.memory = "external";
}

void read_domain(const pugi::xml_node& element, SnapshotXml& snapshot) {
    const pugi::xml_node uuid = element.child("uuid");
    if (!uuid) refuse_xml("<domain> has no <uuid>: nobody can say whose snapshot it is");
    snapshot.domain = xml_uuid(text_in(uuid), "the domain's UUID");
    if (!element.child("name")) return;
    std::ostringstream text;
    element.print(text, "  ", pugi::format_raw | pugi::format_no_declaration, pugi::encoding_utf8);
    snapshot.domain_xml = text.str();
}

void read_part(const pugi::xml_node& element, SnapshotXml& snapshot) {
    const std::string_view name = element.name();
    if (name == "name") {
        snapshot.name = text_in(element);
    } else if (name == "description") {
        snapshot.description = text_in(element);
    } else if (name == "state") {
        snapshot.state = text_in(element);
    } else if (name == "creationTime") {
        snapshot.created_sec = number_in(text_in(element), "<creationTime>");
    } else if (name == "active") {
        snapshot.active = text_in(element) == "1";
    } else if (name == "parent") {
        snapshot.parent = text_in(element.child("name"));
    } else if (name == "memory") {
        read_memory(element, snapshot);
    } else if (name == "disks") {
        for (const pugi::xml_node& disk : element.children("disk")) snapshot.disks.push_back(disk_in(disk));
    } else if (name == "domain") {
        read_domain(element, snapshot);
    } else if (name == "cookie") {
        const pugi::xml_node own = element.child(own_element);
        if (own && std::string_view(own.attribute("xmlns:volchain").value()) == own_namespace)
            snapshot.own = own_part_in(own);
    } else if (name != "inactiveDomain") {
        refuse_xml("<{}> is not known", clipped(name));
    }
}

// --- writing ---------------------------------------------------------------------------------------

void put_text(pugi::xml_node parent, const char* name, const std::string& text) {
    parent.append_child(name).append_child(pugi::node_pcdata).set_value(made_fit_for_xml(text).c_str());
}

void put(pugi::xml_node element, const char* name, const std::string& value) {
    element.append_attribute(name).set_value(made_fit_for_xml(value).c_str());
}

void put_disk(pugi::xml_node disks, const XmlSnapshotDisk& disk) {
    pugi::xml_node element = disks.append_child("disk");
    put(element, "name", disk.name);
    if (!disk.mode.empty()) put(element, "snapshot", disk.mode);
    if (disk.mode == "no" || disk.mode == "internal" || disk.mode == "manual") return;
    if (!disk.type.empty()) put(element, "type", disk.type);
    if (!disk.format.empty()) put(element.append_child("driver"), "type", disk.format);
    if (!disk.source.empty())
        put(element.append_child("source"), disk.type == "block" ? "dev" : "file", disk.source);
}

void put_own_part(pugi::xml_node root, const XmlOwnPart& own) {
    pugi::xml_node element = root.append_child("cookie").append_child(own_element);
    put(element, "xmlns:volchain", own_namespace);
    put(element, "id", own.id.str());
    put(element, "description", own.description);
    put(element, "created-usec", std::to_string(own.created_usec));
    put(element, "vm-state", own.vm_state);
    put(element, "consistency", own.consistency);
    put(element, "origin", own.origin);
    put(element, "current", own.current ? "yes" : "no");
    for (const XmlOwnDisk& disk : own.disks) {
        pugi::xml_node part = element.append_child("volchain:disk");
        put(part, "id", disk.disk.str());
        put(part, "volume", disk.volume.str());
        put(part, "file", disk.file);
    }
    for (const XmlLeftOutDisk& disk : own.excluded) {
        pugi::xml_node part = element.append_child("volchain:excluded");
        if (disk.disk) put(part, "id", disk.disk.str());
        put(part, "why", disk.why);
    }
    for (const XmlOwnNvram& copy : own.nvram) {
        pugi::xml_node part = element.append_child("volchain:nvram");
        put(part, "store", copy.store);
        put(part, "file", copy.file);
    }
    if (own.config.empty() && own.config_type.empty()) return;
    put_text(element, "volchain:config", base64(own.config));
    put(element.child("volchain:config"), "type", own.config_type);
}

void put_domain(pugi::xml_node root, const SnapshotXml& snapshot) {
    if (!snapshot.domain_xml.empty()) {
        const pugi::xml_document domain = load(snapshot.domain_xml);
        root.append_copy(domain.document_element());
    } else if (snapshot.domain) {
        put_text(root.append_child("domain"), "uuid", snapshot.domain->str());
    }
}

}  // namespace

SnapshotXml parse_snapshot_xml(std::string_view text) {
    const pugi::xml_document document = load(text);
    const pugi::xml_node root = document.document_element();
    if (std::string_view(root.name()) != "domainsnapshot")
        refuse_xml("it is a <{}>, not a <domainsnapshot>", clipped(root.name()));
    SnapshotXml snapshot;
    std::vector<std::string_view> seen;
    for (const pugi::xml_node& part : root.children()) {
        if (part.type() != pugi::node_element) continue;
        if (std::find(seen.begin(), seen.end(), part.name()) != seen.end())
            refuse_xml("<{}> is there twice", clipped(part.name()));
        seen.emplace_back(part.name());
        read_part(part, snapshot);
    }
    return snapshot;
}

std::string format_snapshot_xml(const SnapshotXml& snapshot) {
    pugi::xml_document document;
    pugi::xml_node root = document.append_child("domainsnapshot");
    if (!snapshot.name.empty()) put_text(root, "name", snapshot.name);
    if (!snapshot.description.empty()) put_text(root, "description", snapshot.description);
    if (!snapshot.state.empty()) put_text(root, "state", snapshot.state);
    if (!snapshot.parent.empty()) put_text(root.append_child("parent"), "name", snapshot.parent);
    if (snapshot.created_sec) put_text(root, "creationTime", std::to_string(*snapshot.created_sec));
    if (!snapshot.memory.empty()) put(root.append_child("memory"), "snapshot", snapshot.memory);
    if (!snapshot.memory_file.empty()) put(root.child("memory"), "file", snapshot.memory_file);
    if (!snapshot.disks.empty()) {
        pugi::xml_node disks = root.append_child("disks");
        for (const XmlSnapshotDisk& disk : snapshot.disks) put_disk(disks, disk);
    }
    if (snapshot.active) put_text(root, "active", "1");
    put_domain(root, snapshot);
    if (snapshot.own) put_own_part(root, *snapshot.own);
    std::ostringstream text;
    document.save(text, "  ", pugi::format_indent | pugi::format_no_declaration, pugi::encoding_utf8);
    return text.str();
}

std::optional<XmlDomain> read_domain_xml(std::string_view text) {
    // What is not meant to be XML is no error.
    if (text.find("<domain") == std::string_view::npos) return std::nullopt;
    try {
        const pugi::xml_document document = load(text);
        const pugi::xml_node root = document.document_element();
        if (std::string_view(root.name()) != "domain") return std::nullopt;
        XmlDomain domain;
        domain.uuid = Uuid::parse(root.child("uuid").text().get());
        for (const pugi::xml_node& disk : root.child("devices").children("disk")) {
            const pugi::xml_node source = disk.child("source");
            const pugi::xml_attribute file = source.attribute("file");
            domain.disks.push_back({disk.child("target").attribute("dev").value(),
                                    disk.child("serial").text().get(),
                                    (file ? file : source.attribute("dev")).value()});
        }
        return domain;
    } catch (const Error&) {
        return std::nullopt;
    }
}

bool is_libvirt_target(std::string_view name) {
    if (name.starts_with("ioemu:")) name.remove_prefix(6);
    constexpr std::array<std::string_view, 6> buses{"fd", "hd", "sd", "vd", "xvd", "ubd"};
    for (const std::string_view bus : buses) {
        if (!name.starts_with(bus) || name.size() == bus.size()) continue;
        const std::string_view rest = name.substr(bus.size());
        return std::all_of(rest.begin(), rest.end(), [](unsigned char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        });
    }
    return false;
}

}  // namespace volchain::storage
