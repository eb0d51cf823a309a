// SPDX-License-Identifier: MIT
#include "daemon/finder.h"

#include "base/text.h"
#include "unit/storage/support.h"

namespace volchain::daemon::finder_test {
namespace {

using namespace storage;

Uuid id_of(const std::string& text) {
    return Uuid::parse(text).value();
}

/// Disks whose ids begin alike, and a VM that is called like the beginning of another's id.
class FinderTest : public testing::Test {
  protected:
    FinderTest() {
        Changes changes = sample_.changes();
        changes.put(VmRecord{first_, "mail", {}, {}, {}, {}, {}, true, false});
        changes.put(VmRecord{second_, "abcd", {}, {}, {}, {}, {}, true, false});
        SnapshotRecord same = sample_.snapshot;
        same.id = Uuid::make();
        same.vm = first_;
        same.parent = Uuid{};
        same_name_ = same.id;
        changes.put(std::move(same));
        catalog_.commit(std::move(changes));
    }

    Uuid find(ObjectKind kind, const std::string& what) { return find_object(*catalog_, kind, what); }
    void expect_nothing(ObjectKind kind, const std::string& what) {
        expect_error(ErrorCode::not_found, {"there is no", quote(what)}, [&] { (void)find(kind, what); });
    }

    const Uuid first_ = id_of("abcd0000-0000-4000-8000-000000000001");
    const Uuid second_ = id_of("abce0000-0000-4000-8000-000000000002");
    Uuid same_name_;
    TestCatalog catalog_;
    Sample sample_;
};

TEST_F(FinderTest, ByName) {
    EXPECT_EQ(find(ObjectKind::vm, "mail"), first_);
    EXPECT_EQ(find(ObjectKind::pool, sample_.pool.name), sample_.pool.id);
    EXPECT_EQ(find(ObjectKind::disk, sample_.disk.name), sample_.disk.id);
    EXPECT_EQ(find(ObjectKind::vm, sample_.vm.name), sample_.vm.id);
    expect_nothing(ObjectKind::pool, "mail");
    expect_nothing(ObjectKind::vm, "mai");
    expect_nothing(ObjectKind::vm, "MAIL");
    expect_nothing(ObjectKind::vm, "");
}

TEST_F(FinderTest, ByIdAndItsBeginning) {
    for (const Uuid& id : {first_, second_, sample_.vm.id}) {
        EXPECT_EQ(find(ObjectKind::vm, id.str()), id);
        EXPECT_EQ(find(ObjectKind::vm, id.str('_')), id);
    }
    EXPECT_EQ(find(ObjectKind::vm, "abcd0000-00"), first_);
    EXPECT_EQ(find(ObjectKind::vm, "ABCE0000"), second_) << "in capitals, too";
    EXPECT_EQ(find(ObjectKind::vm, "abce"), second_);
    expect_nothing(ObjectKind::vm, "abc");  // shorter than an id's beginning has to be
    expect_nothing(ObjectKind::vm, first_.str() + "0");
    expect_nothing(ObjectKind::vm, "bcd0");
    EXPECT_EQ(find(ObjectKind::job, sample_.job.id.str().substr(0, 8)), sample_.job.id);
    EXPECT_EQ(find(ObjectKind::volume, sample_.base.id.str()), sample_.base.id);
}

TEST_F(FinderTest, ANameComesBeforeTheBeginningOfAnId) {
    EXPECT_EQ(find(ObjectKind::vm, "abcd"), second_);
}

TEST_F(FinderTest, AnIdComesBeforeAName) {
    Changes changes;
    changes.put(VmRecord{Uuid::make(), first_.str(), {}, {}, {}, {}, {}, true, false});
    changes.put(VmRecord{Uuid::make(), first_.str('_'), {}, {}, {}, {}, {}, true, false});
    catalog_.commit(std::move(changes));
    EXPECT_EQ(find(ObjectKind::vm, first_.str()), first_) << "whatever others are called";
    EXPECT_EQ(find(ObjectKind::vm, first_.str('_')), first_);
}

TEST_F(FinderTest, ByPath) {
    const std::string path = catalog_->path(catalog_->volume(sample_.active.id));
    EXPECT_EQ(find(ObjectKind::volume, path), sample_.active.id);
    EXPECT_EQ(find(ObjectKind::disk, path), sample_.disk.id);
    expect_nothing(ObjectKind::vm, path);
    expect_nothing(ObjectKind::volume, path + "x");
    expect_nothing(ObjectKind::volume, sample_.active.file);
}

TEST_F(FinderTest, WhatMayMeanSeveralIsNotGuessed) {
    expect_error(ErrorCode::invalid_argument,
                 {"may mean", sample_.snapshot.id.str(), " or ", same_name_.str(), "use the id"},
                 [&] { (void)find(ObjectKind::snapshot, sample_.snapshot.name); });
    Changes changes;
    changes.put(
        VmRecord{id_of("abcd1111-0000-4000-8000-000000000003"), "db", {}, {}, {}, {}, {}, true, false});
    changes.remove(ObjectKind::vm, second_);
    catalog_.commit(std::move(changes));
    expect_error(ErrorCode::invalid_argument, {"'mail'", "'db'"},
                 [&] { (void)find(ObjectKind::vm, "abcd"); });
    EXPECT_EQ(find(ObjectKind::vm, "abcd0"), first_);
}

}  // namespace
}  // namespace volchain::daemon::finder_test
