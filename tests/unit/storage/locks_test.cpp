// SPDX-License-Identifier: MIT
#include "storage/jobs/locks.h"

#include "support.h"

namespace volchain::storage::locks_test {
namespace {

class LocksTest : public testing::Test {
  protected:
    LocksTest() {
        catalog_.commit(sample_.changes());
        locks_.watch([this](ObjectId object) { told_.emplace_back(object, locks_.held(object)); });
    }

    TestCatalog catalog_;
    Sample sample_;
    Locks locks_{*catalog_};
    ObjectId vm_{ObjectKind::vm, sample_.vm.id};
    ObjectId disk_{ObjectKind::disk, sample_.disk.id};
    std::vector<std::pair<ObjectId, bool>> told_;
};

TEST_F(LocksTest, TellAnotherWhoIsThereAtOnce) {
    const auto held = locks_.take({vm_, disk_}, "create-snapshot", sample_.job.id);
    expect_error(ErrorCode::busy,
                 {"disk 'root' (" + sample_.disk.id.str() + ") is busy", "create-snapshot",
                  "job " + sample_.job.id.str()},
                 [&] { (void)locks_.take({disk_}, "create-overlay", Uuid::make()); });
    EXPECT_EQ(locks_.job_holding(vm_), sample_.job.id);
    EXPECT_EQ(locks_.job_holding(disk_), sample_.job.id);
}

TEST_F(LocksTest, NameAHolderThatIsNoJob) {
    const auto held = locks_.take({vm_}, "being registered", Uuid{});
    const auto error = error_of([&] { (void)locks_.take({vm_}, "x", Uuid{}); });
    ASSERT_TRUE(error.has_value());
    EXPECT_THAT(error->what(),
                HasSubstr("VM 'web' (" + sample_.vm.id.str() + ") is busy: being registered;"));
    EXPECT_THAT(error->what(), testing::Not(HasSubstr("job")));
    EXPECT_TRUE(locks_.held(vm_));
    EXPECT_TRUE(locks_.job_holding(vm_).nil());
}

async::Task<> take_patiently(Locks& locks, ObjectId object, std::vector<std::string>& done) {
    const auto held = co_await locks.take_when_seen_to(object, "b", soon());
    done.emplace_back("taken");
}

async::Task<> wait_for_what_is_no_job(Locks& locks, ObjectId object, std::vector<std::string>& done) {
    auto held = locks.take({object}, "looking at its disks", Uuid{});
    async::TaskGroup waiting(co_await async::asio::this_coro::executor);
    waiting.spawn(take_patiently(locks, object, done), "the other one");
    co_await async::sleep_until(async::after(std::chrono::milliseconds(20)));
    done.emplace_back("released");
    held.release();
    co_await waiting.join(soon());
}

TEST_F(LocksTest, AreWaitedForWhereNoJobHasThem) {
    std::vector<std::string> done;
    async::run(wait_for_what_is_no_job(locks_, vm_, done));
    EXPECT_THAT(done, testing::ElementsAre("released", "taken"));
    EXPECT_FALSE(locks_.held(vm_));
}

async::Task<> take_until(Locks& locks, ObjectId object, async::Deadline deadline) {
    (void)co_await locks.take_when_seen_to(object, "b", deadline);
}

TEST_F(LocksTest, AreNotWaitedForBeyondTheDeadlineOrForAJob) {
    const auto held = locks_.take({vm_}, "looking at its disks", Uuid{});
    expect_error(ErrorCode::busy, {"looking at its disks"},
                 [&] { async::run(take_until(locks_, vm_, async::after(std::chrono::milliseconds(20)))); });
    const auto job = locks_.take({disk_}, "create-snapshot", sample_.job.id);
    expect_error(ErrorCode::busy, {"create-snapshot"},
                 [&] { async::run(take_until(locks_, disk_, async::no_deadline)); });
}

TEST_F(LocksTest, AreTakenAllOrNone) {
    auto held = locks_.take({disk_}, "a", Uuid{});
    const auto attempt = [&] { (void)locks_.take({vm_, disk_}, "b", Uuid{}); };
    expect_error(ErrorCode::busy, {"disk"}, attempt);
    EXPECT_FALSE(locks_.held(vm_));
    held.release();
    attempt();
    EXPECT_FALSE(locks_.held(vm_)) << "what nobody keeps is released";
}

TEST_F(LocksTest, KeepKindsApart) {
    const auto held = locks_.take({{ObjectKind::vm, sample_.vm.id}}, "a", Uuid{});
    const auto other = locks_.take({{ObjectKind::disk, sample_.vm.id}}, "b", Uuid{});
    EXPECT_TRUE(locks_.held(vm_));
    EXPECT_TRUE(locks_.held({ObjectKind::disk, sample_.vm.id}));
}

TEST_F(LocksTest, AreReleasedByAnException) {
    const auto failing = [&] {
        const auto held = locks_.take({vm_, disk_}, "a", Uuid{});
        throw Error(ErrorCode::no_space, std::string("full"));
    };
    expect_error(ErrorCode::no_space, {}, failing);
    EXPECT_FALSE(locks_.held(vm_));
    EXPECT_FALSE(locks_.held(disk_));
}

TEST_F(LocksTest, AreReleasedByTheLastOwnerOnly) {
    auto first = locks_.take({vm_}, "a", Uuid{});
    Locks::Held second = std::move(first);
    EXPECT_TRUE(locks_.held(vm_));
    first.release();  // NOLINT(bugprone-use-after-move): it has nothing any more
    EXPECT_TRUE(locks_.held(vm_));
    second = locks_.take({disk_}, "b", Uuid{});
    EXPECT_FALSE(locks_.held(vm_)) << "what is assigned over is released";
    EXPECT_TRUE(locks_.held(disk_));
    second.release();
    second.release();
    EXPECT_FALSE(locks_.held(disk_));
}

TEST_F(LocksTest, TellTheWatcher) {
    auto held = locks_.take({vm_, disk_}, "a", Uuid{});
    held.release();
    using Told = std::pair<ObjectId, bool>;
    EXPECT_THAT(told_, ElementsAre(Told(vm_, true), Told(disk_, true), Told(vm_, false), Told(disk_, false)));
}

TEST_F(LocksTest, OutliveAWatcherThatThrows) {
    auto held = locks_.take({vm_}, "a", Uuid{});
    locks_.watch([](ObjectId) { throw Error(ErrorCode::internal, std::string("a mistake")); });
    held.release();
    EXPECT_FALSE(locks_.held(vm_));
    expect_error(ErrorCode::internal, {"a mistake"}, [&] { (void)locks_.take({vm_}, "b", Uuid{}); });
    EXPECT_FALSE(locks_.held(vm_)) << "who was not given the lock does not leave it behind";
}

TEST_F(LocksTest, MayBeTakenAgainByTheWatcherOfARelease) {
    auto held = locks_.take({vm_}, "a", Uuid{});
    Locks::Held next;
    locks_.watch([&](ObjectId object) {
        if (!locks_.held(object)) next = locks_.take({object}, "next", Uuid{});
    });
    held.release();
    EXPECT_TRUE(locks_.held(vm_));
    expect_error(ErrorCode::busy, {"next"}, [&] { (void)locks_.take({vm_}, "b", Uuid{}); });
}

}  // namespace
}  // namespace volchain::storage::locks_test
