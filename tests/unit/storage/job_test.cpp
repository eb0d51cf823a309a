// SPDX-License-Identifier: MIT
#include "storage/jobs/job.h"

#include <filesystem>

#include "support.h"

namespace volchain::storage::job_test {
namespace {

using State = JobState;

/// One running job on the sample's VM, whose lock it has. The tests are its operation.
class JobTest : public testing::Test {
  protected:
    JobTest() {
        catalog_.commit(sample_.changes());
        JobRecord record;
        record.id = Uuid::make();
        record.kind = "create-snapshot";
        record.subject = vm_;
        record.state = State::running;
        record.step = "record";
        record.started = now();
        record.plan = {{"a", 1}};
        Changes changes;
        changes.put(record);
        catalog_.commit(std::move(changes));
        job_ = std::make_shared<Job>(*catalog_, locks_.take({vm_}, record.kind, record.id), record,
                                     [this] { ++changes_told_; });
    }

    [[nodiscard]] const JobRecord& on_disk() { return catalog_->job(job_->id()); }
    void cancel() { job_->cancel(); }

    Task<> steps();
    Task<> cancel_between_steps();
    Task<> cancel_within_a_step();
    Task<> cancel_a_wait();
    Task<> values_and_errors();
    Task<> no_return();
    Task<> succeed();
    Task<> fail(Error error, State expected);
    Task<> many_waiters();
    Task<> settle();
    Task<> note_end(int& ended);
    Task<> write_trouble();
    Task<> contradiction();

    TestCatalog catalog_;
    Sample sample_;
    Locks locks_{*catalog_};
    ObjectId vm_{ObjectKind::vm, sample_.vm.id};
    JobPtr job_;
    int changes_told_ = 0;
};

Task<> JobTest::steps() {
    co_await job_->step("files");
    EXPECT_EQ(on_disk().step, "files") << "on disk before it is done";
    EXPECT_EQ(on_disk().plan, (Json{{"a", 1}}));
    Json plan{{"b", 2}};
    job_->set_plan(std::move(plan));
    EXPECT_EQ(on_disk().plan, (Json{{"a", 1}}));
    job_->pass("switch");
    EXPECT_EQ(on_disk().step, "files") << "a step in a hurry writes nothing";
    EXPECT_EQ(job_->record().step, "switch");
    co_await job_->step("nodes");
    EXPECT_EQ(on_disk().step, "nodes");
    EXPECT_EQ(on_disk().plan, (Json{{"b", 2}}));
    EXPECT_EQ(word(on_disk().state), "running");
}
TEST_F(JobTest, StepsAreOnDiskBeforeTheyAreDone) {
    async::run(steps());
    catalog_.reopen();
    EXPECT_EQ(on_disk().step, "nodes");
    EXPECT_EQ(on_disk().plan, (Json{{"b", 2}}));
}

Task<> JobTest::cancel_between_steps() {
    co_await job_->step("files");
    EXPECT_TRUE(job_->cancellable());
    cancel();
    cancel();  // asking twice is asking once
    EXPECT_EQ(word(job_->record().state), "cancelling");
    co_await expect_failure(job_->step("nodes"), ErrorCode::cancelled,
                            "create-snapshot was stopped by its user");
    EXPECT_EQ(on_disk().step, "files") << "the step after a cancel is not begun";
    co_await job_->undo_step("undo");
    EXPECT_EQ(on_disk().step, "undo");
    EXPECT_FALSE(job_->cancellable()) << "undoing cannot be cancelled";
}
TEST_F(JobTest, ACancelStopsTheNextStep) {
    async::run(cancel_between_steps());
}

Task<> JobTest::cancel_within_a_step() {
    async::TaskGroup user(co_await async::asio::this_coro::executor);
    const auto ask = [](Job& job) -> Task<> {
        co_await async::yield();  // until the step is being written
        job.cancel();
    };
    user.spawn(ask(*job_), "the user");
    co_await expect_failure(job_->step("files"), ErrorCode::cancelled, "stopped");
    EXPECT_EQ(on_disk().step, "files") << "recovery knows of it";
    co_await user.join(soon());
}
TEST_F(JobTest, ACancelWhileAStepIsWrittenStopsIt) {
    async::run(cancel_within_a_step());
}

Task<> JobTest::cancel_a_wait() {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    bool ended = false;
    const auto forever = [](bool& over) -> Task<> {
        struct Note {
            bool& over;
            ~Note() { over = true; }
        };
        const Note note{over};
        co_await async::sleep_until(soon() + std::chrono::hours(1));
    };
    const auto ask = [](Job& job) -> Task<> {
        co_await async::yield();
        job.cancel();
    };
    async::TaskGroup user(executor);
    user.spawn(ask(*job_), "the user");
    co_await expect_failure(job_->or_cancel(forever(ended)), ErrorCode::cancelled, "stopped");
    EXPECT_TRUE(ended) << "what was waited for has ended";
    ended = false;
    co_await expect_failure(job_->or_cancel(forever(ended)), ErrorCode::cancelled, "stopped");
    EXPECT_FALSE(ended) << "after a cancel it is not begun";
    co_await user.join(soon());
}
TEST_F(JobTest, ACancelBreaksOffAWait) {
    async::run(cancel_a_wait());
}

Task<> JobTest::values_and_errors() {
    const auto seven = []() -> Task<int> { co_return 7; };
    const int value = co_await job_->or_cancel(seven());
    EXPECT_EQ(value, 7);
    const auto failing = []() -> Task<> {
        throw Error(ErrorCode::no_space, std::string("full"));
        co_return;
    };
    co_await expect_failure(job_->or_cancel(failing()), ErrorCode::no_space, "full");
}
TEST_F(JobTest, AWaitThatIsNotCancelledEndsAsItDoes) {
    async::run(values_and_errors());
}

Task<> JobTest::no_return() {
    co_await job_->step("switch");
    job_->no_return();
    EXPECT_EQ(changes_told_, 1) << "it cannot be cancelled any more, which is a property";
    EXPECT_FALSE(job_->cancellable());
    expect_error(ErrorCode::unsupported,
                 {"job " + job_->id().str(), "create-snapshot", "switch", "past the point"},
                 [this] { cancel(); });
    EXPECT_EQ(word(job_->record().state), "running");
    co_await job_->step("finish");
}
TEST_F(JobTest, AfterTheSwitchACancelIsRefusedWithAReason) {
    async::run(no_return());
}

TEST_F(JobTest, ACancelInTimeWinsOverTheSwitch) {
    cancel();
    expect_error(ErrorCode::cancelled, {}, [this] { job_->no_return(); });
    EXPECT_TRUE(job_->cancellable());
}

TEST_F(JobTest, ProgressIsToldWhereThereIsAny) {
    job_->progress(1, 10);
    job_->progress(1, 10);
    job_->progress(2, 10);
    EXPECT_EQ(changes_told_, 2);
    EXPECT_EQ(job_->record().done_bytes, 2u);
    EXPECT_EQ(job_->record().total_bytes, 10u);
    EXPECT_EQ(on_disk().done_bytes, 0u);
}

Task<> JobTest::succeed() {
    const Timestamp before = now();
    job_->progress(5, 5);
    DiskRecord renamed = sample_.disk;
    renamed.name = "system";
    Changes changes;
    changes.put(renamed);
    Json result{{"switch-usec", 3}};
    co_await job_->succeed(std::move(changes), std::move(result));
    EXPECT_GE(job_->record().finished, before);
}
TEST_F(JobTest, SuccessAndWhatItChangesAreOneCommit) {
    async::run(succeed());
    EXPECT_FALSE(job_->cancellable());
    expect_error(ErrorCode::unsupported, {"already succeeded"}, [this] { cancel(); });
    EXPECT_FALSE(locks_.held(vm_));
    for (int round = 0; round < 2; ++round) {
        EXPECT_EQ(catalog_->disk(sample_.disk.id).name, "system");
        EXPECT_EQ(word(on_disk().state), "succeeded");
        EXPECT_EQ(on_disk().result, (Json{{"switch-usec", 3}}));
        EXPECT_EQ(on_disk().plan, Json::object()) << "nobody will carry it on";
        EXPECT_EQ(on_disk().done_bytes, 5u);
        EXPECT_FALSE(on_disk().error.has_value());
        catalog_.reopen();
    }
}

Task<> JobTest::fail(Error error, State expected) {
    Changes changes;
    changes.remove(ObjectKind::snapshot, sample_.snapshot.id);
    VmRecord vm = sample_.vm;
    vm.current_snapshot = {};
    changes.put(vm);
    co_await job_->fail(std::move(changes), std::move(error));
    EXPECT_EQ(word(on_disk().state), word(expected));
    EXPECT_FALSE(catalog_->has({ObjectKind::snapshot, sample_.snapshot.id}));
    EXPECT_FALSE(locks_.held(vm_));
}
TEST_F(JobTest, AFailureNamesTheJobAndItsSubject) {
    async::run(fail(Error(ErrorCode::no_space, std::string("the pool is full")), State::failed));
    catalog_.reopen();
    EXPECT_EQ(name(on_disk().error->code()), "NoSpace");
    EXPECT_EQ(std::string(on_disk().error->what()),
              "create-snapshot of VM 'web' (" + sample_.vm.id.str() + "): the pool is full");
    expect_error(ErrorCode::unsupported, {"already failed"}, [this] { cancel(); });
}
TEST_F(JobTest, ACancelThatWasObeyedIsNoFailure) {
    async::run(fail(Error(ErrorCode::cancelled, std::string("stopped")), State::cancelled));
    expect_error(ErrorCode::unsupported, {"already been cancelled"}, [this] { cancel(); });
}

Task<> JobTest::note_end(int& ended) {
    co_await job_->wait(soon());
    EXPECT_TRUE(finished(job_->record().state));
    EXPECT_FALSE(locks_.held(vm_)) << "whoever hears of the end may come with the next operation";
    ++ended;
}
Task<> JobTest::many_waiters() {
    co_await expect_failure(job_->wait(qmp::after_ms(20)), ErrorCode::timeout,
                            "the end of job " + job_->id().str());
    async::TaskGroup waiters(co_await async::asio::this_coro::executor);
    int ended = 0;
    for (int number = 0; number < 20; ++number) waiters.spawn(note_end(ended), "a waiter");
    co_await async::yield();
    EXPECT_EQ(ended, 0);
    co_await job_->succeed(Changes{}, Json::object());
    co_await waiters.join(soon());
    EXPECT_EQ(ended, 20);
    co_await note_end(ended);
}
TEST_F(JobTest, ManyMayWaitForItsEnd) {
    async::run(many_waiters());
}

Task<> JobTest::write_trouble() {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    auto limit = std::make_unique<FileSizeLimit>(std::filesystem::file_size(catalog_.path() + "-wal"));
    async::TaskGroup operation(executor);
    operation.spawn(job_->succeed(Changes{}, Json::object()), "the end");
    // Longer than the first attempt takes, and less than the pause after it.
    co_await expect_failure(job_->wait(qmp::after_ms(300)), ErrorCode::timeout, "");
    EXPECT_EQ(word(job_->record().state), "running");
    EXPECT_TRUE(locks_.held(vm_));
    limit.reset();
    co_await job_->wait(soon());
    EXPECT_EQ(word(on_disk().state), "succeeded");
    co_await operation.join(soon());
}
/// A step that copies is no more than a beginning: what QEMU has of it is not known yet.
Task<> JobTest::settle() {
    const Job::Copying copying(*job_);
    co_await expect_failure(job_->wait_settled(qmp::after_ms(20)), ErrorCode::timeout,
                            "job " + job_->id().str() + " to be settled");
    job_->set_under_way();
    co_await job_->wait_settled(soon());
}

TEST_F(JobTest, IsSettledWhenItIsUnderWay) {
    async::run(settle());
}

TEST_F(JobTest, WaitsWithItsEndUntilItCanBeWritten) {
    async::run(write_trouble());
    catalog_.reopen();
    EXPECT_EQ(word(on_disk().state), "succeeded");
}

Task<> JobTest::contradiction() {
    Changes changes;
    changes.put(PoolRecord{Uuid::make(), "twin", sample_.pool.path});
    co_await expect_failure(job_->succeed(std::move(changes), Json::object()), ErrorCode::already_exists,
                            "pool.path");
    EXPECT_EQ(word(job_->record().state), "running");
    co_await job_->fail(Changes{}, Error(ErrorCode::already_exists, std::string("somebody was faster")));
}
TEST_F(JobTest, DoesNotTryAContradictionAgainAndAgain) {
    async::run(contradiction());
    EXPECT_EQ(word(on_disk().state), "failed");
}

}  // namespace
}  // namespace volchain::storage::job_test
