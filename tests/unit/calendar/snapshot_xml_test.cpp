// SPDX-License-Identifier: MIT
#include "storage/documents/snapshot_xml.h"

#include <gmock/gmock.h>

#include "base/error.h"

namespace volchain::storage::snapshot_xml_test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string refusal(std::string_view text) {
    try {
        (void)parse_snapshot_xml(text);
        return "taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        return error.what();
    }
}

SnapshotXml everything() {
    SnapshotXml all;
    all.name = "a <b> & 'c' \"d\"";
    all.description = " two\nlines with\ttabs ";
    all.state = "disk-snapshot";
    all.created_sec = 1700000000;
    all.parent = "before";
    all.memory = "no";
    all.disks.push_back({"vda", "external", "file", "qcow2", "/pool/b 'x'.qcow2"});
    all.disks.push_back({"/pool/raw.img", "no", "", "", ""});
    all.domain = Uuid::make();
    all.own.emplace();
    all.own->id = Uuid::make();
    all.own->description = "two\r\nlines\rwith\ttabs\n";
    all.own->created_usec = 1700000000123456;
    all.own->vm_state = "running";
    all.own->consistency = "filesystem";
    all.own->origin = "user";
    all.own->current = true;
    all.own->disks.push_back({Uuid::make(), Uuid::make(), "/pool/a.qcow2"});
    all.own->excluded.push_back({Uuid(), "device \"x\""});
    all.own->excluded.push_back({Uuid::make(), "why"});
    all.own->config = std::string("\0\xff<x/>", 6);
    all.own->config_type = "application/octet-stream";
    return all;
}

TEST(SnapshotXml, WhatIsWrittenIsReadAgain) {
    const SnapshotXml all = everything();
    EXPECT_EQ(parse_snapshot_xml(format_snapshot_xml(all)), all);
    EXPECT_EQ(parse_snapshot_xml(format_snapshot_xml(SnapshotXml())), SnapshotXml());
}

TEST(SnapshotXml, WhatXmlCannotHoldIsReplaced) {
    SnapshotXml all;
    all.description =
        "a\x01"
        "b\xef\xbf\xbf"
        "c";
    EXPECT_EQ(parse_snapshot_xml(format_snapshot_xml(all)).description,
              "a\xef\xbf\xbd"
              "b\xef\xbf\xbd"
              "c");
}

TEST(SnapshotXml, LineEndsAreThoseOfXml) {
    EXPECT_EQ(parse_snapshot_xml(
                  "<domainsnapshot><description>a\r\nb&#13;c&#13;&#10;d</description></domainsnapshot>")
                  .description,
              "a\nb\nc\nd");
}

TEST(SnapshotXml, OfLibvirt) {
    const SnapshotXml read = parse_snapshot_xml(R"(<?xml version='1.0' encoding='UTF-8'?>
<!-- as virsh prints it -->
<domainsnapshot>
  <name>bef<!-- -->ore<![CDATA[ & after]]></name>
  <state>running</state>
  <creationTime>1270477159</creationTime>
  <memory file='/var/mem'/>
  <disks>
    <disk name='vda'><driver type='qcow2'/><source file='/a'/></disk>
    <disk name='vdb' snapshot='internal'/>
    <disk name='vdc' snapshot='external' type='block'><source dev='/dev/x'/></disk>
  </disks>
  <domain type='kvm'><name>n</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid></domain>
</domainsnapshot>)");
    EXPECT_EQ(read.name, "before & after");
    EXPECT_EQ(read.memory, "external");
    EXPECT_EQ(read.memory_file, "/var/mem");
    ASSERT_EQ(read.disks.size(), 3U);
    EXPECT_EQ(read.disks[0], (XmlSnapshotDisk{"vda", "", "file", "qcow2", "/a"}));
    EXPECT_EQ(read.disks[2].source, "/dev/x");
    EXPECT_EQ(read.domain->str(), "6695eb01-f6a4-8304-79aa-97f2502e193f");
    EXPECT_THAT(read.domain_xml, HasSubstr("<name>n</name>"));
    EXPECT_FALSE(read.own);
}

TEST(SnapshotXml, WhatIsRefused) {
    EXPECT_THAT(refusal(""), Not("taken"));
    EXPECT_THAT(refusal("<domainsnapshot>"), HasSubstr("byte"));
    EXPECT_THAT(refusal("<domain/>"), HasSubstr("not a <domainsnapshot>"));
    EXPECT_THAT(refusal("<domainsnapshot/><domainsnapshot/>"), HasSubstr("2 elements"));
    EXPECT_THAT(refusal("<domainsnapshot><x/></domainsnapshot>"), HasSubstr("<x> is not known"));
    EXPECT_THAT(refusal("<domainsnapshot><name/><name/></domainsnapshot>"), HasSubstr("twice"));
    EXPECT_THAT(refusal("<domainsnapshot><name><b/></name></domainsnapshot>"),
                HasSubstr("where text belongs"));
    EXPECT_THAT(refusal("<domainsnapshot><name>&#1;</name></domainsnapshot>"), HasSubstr("does not have"));
    EXPECT_THAT(refusal("<domainsnapshot><name>\xff</name></domainsnapshot>"), HasSubstr("UTF-8"));
    EXPECT_THAT(refusal("<?xml version='1.0' encoding='ISO-8859-1'?><domainsnapshot/>"),
                HasSubstr("ISO-8859-1"));
    EXPECT_THAT(refusal("<domainsnapshot><creationTime>soon</creationTime></domainsnapshot>"),
                HasSubstr("no time"));
    EXPECT_THAT(refusal("<domainsnapshot><disks><disk/></disks></domainsnapshot>"),
                HasSubstr("without a name"));
    EXPECT_THAT(refusal("<domainsnapshot><domain/></domainsnapshot>"), HasSubstr("no <uuid>"));
    EXPECT_THAT(refusal(std::string(max_snapshot_xml + 1, ' ')), HasSubstr("larger"));
}

TEST(SnapshotXml, NoEntitiesButXmlsOwn) {
    EXPECT_THAT(
        refusal("<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domainsnapshot><name>&e;</name>"
                "</domainsnapshot>"),
        HasSubstr("document type"));
    EXPECT_EQ(parse_snapshot_xml("<domainsnapshot><name>&lt;&e;</name></domainsnapshot>").name, "<&e;");
}

TEST(SnapshotXml, DeepNestingNeedsNoStack) {
    std::string deep = "<domainsnapshot><cookie>";
    for (int i = 0; i < 1000000; ++i) deep += "<a>";
    for (int i = 0; i < 1000000; ++i) deep += "</a>";
    EXPECT_EQ(refusal(deep + "</cookie></domainsnapshot>"), "taken");
}

TEST(SnapshotXml, DomainsAreToldFromOtherConfigurations) {
    EXPECT_FALSE(read_domain_xml("{}"));
    EXPECT_FALSE(read_domain_xml("<domain>"));
    EXPECT_FALSE(read_domain_xml("<x><domain/></x>"));
    const auto domain = read_domain_xml(
        "<domain><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid><devices><disk><source file='/a'/><target "
        "dev='vda'/>"
        "<serial>s</serial></disk><disk><source dev='/b'/></disk></devices></domain>");
    ASSERT_TRUE(domain);
    ASSERT_EQ(domain->disks.size(), 2U);
    EXPECT_EQ(domain->disks[0].target, "vda");
    EXPECT_EQ(domain->disks[0].serial, "s");
    EXPECT_EQ(domain->disks[1].source, "/b");
}

TEST(SnapshotXml, TargetsOfLibvirt) {
    for (const char* good : {"vda", "sdaa", "hdc1", "xvda", "ubdb_1", "ioemu:hda", "fda"})
        EXPECT_TRUE(is_libvirt_target(good)) << good;
    for (const char* bad : {"", "vd", "nvme0", "vd-a", "serial", "/a"})
        EXPECT_FALSE(is_libvirt_target(bad)) << bad;
}

}  // namespace
}  // namespace volchain::storage::snapshot_xml_test
