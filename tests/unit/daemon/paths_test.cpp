// SPDX-License-Identifier: MIT
#include "daemon/paths.h"

#include "unit/storage/support.h"

namespace volchain::daemon::paths_test {
namespace {

using storage::expect_error;
using storage::ObjectKind;

TEST(Paths, OfEveryKind) {
    const Uuid id = Uuid::parse("01234567-89ab-4cde-8f01-23456789abcd").value();
    const std::map<ObjectKind, std::string> interfaces{{ObjectKind::pool, "org.volchain1.Pool"},
                                                       {ObjectKind::disk, "org.volchain1.Disk"},
                                                       {ObjectKind::volume, "org.volchain1.Volume"},
                                                       {ObjectKind::vm, "org.volchain1.VM"},
                                                       {ObjectKind::snapshot, "org.volchain1.Snapshot"},
                                                       {ObjectKind::exported, "org.volchain1.Export"},
                                                       {ObjectKind::backup, "org.volchain1.Backup"},
                                                       {ObjectKind::schedule, "org.volchain1.Schedule"},
                                                       {ObjectKind::job, "org.volchain1.Job"}};
    EXPECT_EQ(interfaces.size(), enum_names(ObjectKind{}).size());
    for (const auto& [kind, interface] : interfaces) {
        EXPECT_EQ(interface_name(kind), interface);
        const bus::ObjectPath path = object_path(kind, id);
        EXPECT_EQ(path.str(),
                  fmt::format("/org/volchain1/{}/01234567_89ab_4cde_8f01_23456789abcd", word(kind)));
        EXPECT_EQ(id_in(path, kind, "x"), id);
    }
    EXPECT_EQ(object_path(ObjectKind::disk, Uuid{}).str(), "/");
    EXPECT_THAT(object_paths(ObjectKind::disk, {id, id}), testing::SizeIs(2));
}

TEST(Paths, OnlyThoseOfTheKindHaveAnId) {
    const Uuid id = Uuid::make();
    for (const std::string& path :
         {std::string("/"), std::string("/org/volchain1/disk"), std::string("/org/volchain1/disk/x"),
          object_path(ObjectKind::volume, id).str(), "/org/volchain1/disk/" + Uuid{}.str('_'),
          object_path(ObjectKind::disk, id).str() + "/more", "/org/volchain1/disks/" + id.str('_')})
        expect_error(ErrorCode::invalid_argument, {"argument 'backing'", path, "disk"},
                     [&] { (void)id_in(bus::ObjectPath(path), ObjectKind::disk, "backing"); });
    // One object has one path: not also the one in capitals.
    expect_error(ErrorCode::invalid_argument, {"disk"}, [&] {
        (void)id_in(bus::ObjectPath("/org/volchain1/disk/ABCDEF01_89ab_4cde_8f01_23456789abcd"),
                    ObjectKind::disk, "x");
    });
}

}  // namespace
}  // namespace volchain::daemon::paths_test
