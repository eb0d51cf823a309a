// SPDX-License-Identifier: MIT
#include "storage/jobs/jobs.h"

#include <filesystem>

#include "support.h"

namespace volchain::storage::jobs_test {
namespace {

using std::chrono::hours;

Task<> succeed_at_once(JobPtr job) {
    co_await job->succeed(Changes{}, Json::object());
}

/// Steps until it is told to go on.
struct Gate {
    async::Condition opened;
    bool open = false;

    Task<> pass(JobPtr job) {
        co_await job->step("waiting");
        while (!open) co_await opened.wait(soon(), "the gate");
        co_await job->succeed(Changes{}, Json::object());
    }
    void let_go() {
        open = true;
        opened.notify();
    }
    [[nodiscard]] Operation operation() {
        return [this](JobPtr job) { return pass(std::move(job)); };
    }
};

class JobsTest : public testing::Test {
  protected:
    JobsTest() { catalog_.commit(sample_.changes()); }

    [[nodiscard]] JobRequest request() const {
        JobRequest request("create-snapshot", vm_, 1000);
        request.locks.push_back(vm_);
        request.plan = {{"a", 1}};
        return request;
    }
    [[nodiscard]] std::unique_ptr<Jobs> table(const async::Executor& executor,
                                              std::chrono::seconds keep = hours(1)) {
        return std::make_unique<Jobs>(executor, *catalog_, locks_, keep);
    }
    Task<Uuid> start(Jobs& jobs, Operation operation) {
        JobRequest asked = request();
        co_return co_await jobs.start(std::move(asked), std::move(operation));
    }
    Uuid put_finished(std::chrono::seconds ago, JobState state) {
        JobRecord record = sample_.job;
        record.id = Uuid::make();
        record.state = state;
        record.finished = now() - ago;
        Changes changes;
        changes.put(record);
        catalog_.commit(std::move(changes));
        return record.id;
    }

    Task<> starts();
    Task<> one_at_a_time();
    Task<> start_fails();
    Task<> ends_of_operations();
    Task<> leave_behind(Gate& gate, Uuid& id);
    Task<> recover(Uuid id);
    Task<> swept(std::vector<Uuid> gone);
    Task<> swept_in_spite_of_trouble(Uuid gone);
    Task<> stop_lets_finish();

    TestCatalog catalog_;
    Sample sample_;
    Locks locks_{*catalog_};
    ObjectId vm_{ObjectKind::vm, sample_.vm.id};
};

Task<> JobsTest::starts() {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    Gate gate;
    JobRequest asked = request();
    DiskRecord renamed = sample_.disk;
    renamed.name = "system";
    asked.changes.put(renamed);
    const Timestamp before = now();
    const Uuid id = co_await jobs->start(std::move(asked), gate.operation());
    const JobRecord& record = catalog_->job(id);
    EXPECT_EQ(record.kind, "create-snapshot");
    EXPECT_EQ(record.subject, vm_);
    EXPECT_EQ(word(record.state), "running");
    EXPECT_EQ(record.owner_uid, 1000u);
    EXPECT_EQ(record.plan, (Json{{"a", 1}}));
    EXPECT_GE(record.started, before);
    EXPECT_EQ(catalog_->disk(renamed.id).name, "system") << "what is written with it";
    EXPECT_EQ(locks_.job_holding(vm_), id);
    const JobPtr job = jobs->find(id);
    EXPECT_NE(job, nullptr);
    gate.let_go();
    co_await job->wait(soon());
    co_await jobs->stop(soon());
    EXPECT_EQ(jobs->find(id), nullptr) << "it has ended; its record is in the catalog";
    EXPECT_EQ(word(catalog_->job(id).state), "succeeded");
}
TEST_F(JobsTest, AJobIsOnDiskWhenItsIdIsTold) {
    async::run(starts());
}

Task<> JobsTest::one_at_a_time() {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    Gate gate;
    const Uuid first = co_await start(*jobs, gate.operation());
    const std::size_t known = catalog_->jobs().size();
    co_await expect_failure(dropping(start(*jobs, succeed_at_once)), ErrorCode::busy, "job " + first.str());
    EXPECT_EQ(catalog_->jobs().size(), known) << "busy is the caller's answer, not a job's";
    const JobPtr job = jobs->find(first);
    gate.let_go();
    co_await job->wait(soon());
    const Uuid second = co_await start(*jobs, succeed_at_once);
    EXPECT_TRUE(catalog_->has({ObjectKind::job, second}));
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, TheNextIsBusyUntilTheFirstHasEnded) {
    async::run(one_at_a_time());
}

Task<> JobsTest::start_fails() {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    JobRequest asked = request();
    asked.changes.put(PoolRecord{Uuid::make(), "twin", sample_.pool.path});
    bool begun = false;
    Operation operation = [&begun](JobPtr job) {
        begun = true;
        return succeed_at_once(std::move(job));
    };
    co_await expect_failure(dropping(jobs->start(std::move(asked), std::move(operation))),
                            ErrorCode::already_exists, "pool.path");
    EXPECT_FALSE(begun);
    EXPECT_THAT(jobs->unfinished(), IsEmpty());
    EXPECT_FALSE(locks_.held(vm_));
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, AJobThatCannotBeWrittenIsNotBegun) {
    async::run(start_fails());
}

Task<> JobsTest::ends_of_operations() {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    const auto throws = [](JobPtr job) -> Task<> {
        co_await job->step("files");
        throw Error(ErrorCode::no_space, std::string("full"));
    };
    const auto forgets = [](JobPtr) -> Task<> { co_return; };
    const std::vector<Operation> operations{throws, forgets};
    std::vector<JobRecord> ends;
    for (const Operation& operation : operations) {
        const Uuid id = co_await start(*jobs, operation);
        if (const JobPtr job = jobs->find(id)) co_await job->wait(soon());
        EXPECT_FALSE(locks_.held(vm_));
        ends.push_back(catalog_->job(id));
    }
    EXPECT_EQ(word(ends[0].state), "failed");
    EXPECT_THAT(ends[0].error->what(), HasSubstr("full"));
    EXPECT_EQ(word(ends[1].state), "failed");
    EXPECT_EQ(name(ends[1].error->code()), "Internal");
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, AnOperationCannotEndWithoutItsJob) {
    async::run(ends_of_operations());
}

Task<> JobsTest::leave_behind(Gate& gate, Uuid& id) {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    id = co_await start(*jobs, gate.operation());
    while (catalog_->job(id).step != "waiting") co_await async::yield();
    co_await jobs->stop(qmp::after_ms(10));
    EXPECT_TRUE(locks_.held(vm_)) << "nobody else is let in";
}
Task<> JobsTest::recover(Uuid id) {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    EXPECT_THAT(jobs->unfinished(), ElementsAre(id));
    const auto recovery = [](JobPtr job) -> Task<> {
        EXPECT_EQ(job->record().step, "waiting");
        EXPECT_EQ(job->record().plan, (Json{{"a", 1}}));
        co_await job->fail(Changes{}, Error(ErrorCode::interrupted, std::string("undone")));
    };
    std::vector<ObjectId> locks{vm_};
    jobs->resume(id, std::move(locks), recovery);
    EXPECT_EQ(locks_.job_holding(vm_), id) << "before anybody else can have it";
    const JobPtr job = jobs->find(id);
    co_await job->wait(soon());
    EXPECT_EQ(name(catalog_->job(id).error->code()), "Interrupted");
    EXPECT_THAT(jobs->unfinished(), IsEmpty());
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, WhatAStopLeavesIsRecoveredByTheNextLife) {
    Gate gate;
    Uuid id;
    async::run(leave_behind(gate, id));
    catalog_.reopen();
    EXPECT_EQ(word(catalog_->job(id).state), "running");
    async::run(recover(id));
}

Task<> JobsTest::swept(std::vector<Uuid> gone) {
    async::Condition changed;
    catalog_->watch([&](ObjectId, ChangeKind) { changed.notify(); });
    const auto jobs = table(co_await async::asio::this_coro::executor);
    for (const Uuid& id : gone)
        while (catalog_->has({ObjectKind::job, id})) co_await changed.wait(soon(), "the end of a record");
    catalog_->watch({});
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, ForgetsWhatHasBeenFinishedForLong) {
    const std::vector<Uuid> old{put_finished(hours(2), JobState::succeeded),
                                put_finished(hours(3), JobState::failed),
                                put_finished(hours(4), JobState::cancelled), sample_.job.id};
    const Uuid recent = put_finished(std::chrono::minutes(50), JobState::succeeded);
    const Uuid unfinished = put_finished(hours(5), JobState::running);
    async::run(swept(old));
    EXPECT_THAT(catalog_->ids(ObjectKind::job), UnorderedElementsAre(recent, unfinished));
    catalog_.reopen();
    EXPECT_EQ(catalog_->jobs().size(), 2u);
}

Task<> JobsTest::swept_in_spite_of_trouble(Uuid gone) {
    async::Condition changed;
    catalog_->watch([&](ObjectId, ChangeKind) { changed.notify(); });
    auto limit = std::make_unique<FileSizeLimit>(std::filesystem::file_size(catalog_.path() + "-wal"));
    const auto jobs = table(co_await async::asio::this_coro::executor, std::chrono::seconds(1));
    co_await expect_failure(changed.wait(qmp::after_ms(300), "a change"), ErrorCode::timeout, "");
    EXPECT_TRUE(catalog_->has({ObjectKind::job, gone}));
    limit.reset();
    while (catalog_->has({ObjectKind::job, gone})) co_await changed.wait(soon(), "the end of a record");
    catalog_->watch({});
    co_await jobs->stop(soon());
}
TEST_F(JobsTest, GoesOnForgettingAfterTroubleWithTheDatabase) {
    async::run(swept_in_spite_of_trouble(sample_.job.id));
}

Task<> JobsTest::stop_lets_finish() {
    const auto jobs = table(co_await async::asio::this_coro::executor);
    Gate gate;
    const Uuid id = co_await start(*jobs, gate.operation());
    const auto later = [](Gate& opening) -> Task<> {
        co_await async::sleep_until(qmp::after_ms(20));
        opening.let_go();
    };
    co_await qmp::together(jobs->stop(soon()), later(gate));
    EXPECT_EQ(word(catalog_->job(id).state), "succeeded");
    co_await expect_failure(dropping(start(*jobs, succeed_at_once)), ErrorCode::cancelled, "shutting down");
    EXPECT_FALSE(locks_.held(vm_));
}
TEST_F(JobsTest, AStopLetsARunningJobEnd) {
    async::run(stop_lets_finish());
}

}  // namespace
}  // namespace volchain::storage::jobs_test
