// SPDX-License-Identifier: MIT
#include "support.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>

namespace volchain::storage {

void expect_error(ErrorCode code, const std::vector<std::string>& parts, const std::function<void()>& work) {
    const auto error = error_of(work);
    ASSERT_TRUE(error.has_value()) << "no error was thrown";
    EXPECT_EQ(name(error->code()), name(code)) << error->what();
    for (const std::string& part : parts) EXPECT_THAT(error->what(), HasSubstr(part));
}

Task<> expect_failure(Task<> operation, ErrorCode code, std::string part) {
    const Error error = co_await qmp::failure_of(std::move(operation));
    EXPECT_EQ(name(error.code()), name(code)) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(part));
}

// --- records --------------------------------------------------------------------------------------------

void TestCatalog::commit(Changes changes, Durability durability) {
    async::run(catalog_->commit(std::move(changes), durability));
}

void TestCatalog::reopen() {
    catalog_.reset();
    open();
}

VolumeRecord new_volume(const Uuid& disk, const Uuid& pool, std::string file, VolumeFormat format) {
    return {Uuid::make(), disk, pool, std::move(file), format, now()};
}

DiskRecord new_disk(const VolumeRecord& active, std::string name) {
    DiskRecord disk;
    disk.id = active.disk;
    disk.name = std::move(name);
    disk.active = active.id;
    return disk;
}

Sample::Sample(const std::string& pool_path) {
    pool = {Uuid::make(), "fast", pool_path};
    vm.id = Uuid::make();
    vm.name = "web";
    vm.qmp_socket = "/run/web/qmp";
    vm.agent_socket = "/run/web/agent";
    vm.config = "<domain/>";
    vm.config_type = "application/xml";
    vm.adopt = false;
    vm.foreign_manager = true;
    vm.nvram = {{"/var/lib/firmware/web.fd", 4'000'000'000}};
    disk.id = Uuid::make();
    disk.name = "root";
    disk.vm = vm.id;
    disk.target = "serial0";
    disk.shareable = true;
    disk.node_options = {{"aio", "io_uring"}, {"discard", true}};
    base = new_volume(disk.id, pool.id, "base.raw", VolumeFormat::raw);
    active = new_volume(disk.id, pool.id, "deeper/top.qcow2");
    disk.active = active.id;
    snapshot.id = Uuid::make();
    snapshot.vm = vm.id;
    snapshot.name = "before the upgrade";
    snapshot.description = "taken by hand";
    snapshot.created = from_usec(1'700'000'000'123'456);
    snapshot.vm_state = VmState::paused;
    snapshot.consistency = Consistency::application;
    snapshot.status = SnapshotStatus::partial;
    snapshot.origin = "schedule";
    snapshot.disks = {{disk.id, base.id}};
    snapshot.excluded = {{Uuid::make(), "no room"}};
    snapshot.config = "<domain>then</domain>";
    snapshot.config_type = "application/xml";
    snapshot.files = {
        {SnapshotFileKind::memory, pool.id, "deeper/web.memory", std::uint64_t{1} << 40},
        {SnapshotFileKind::nvram, pool.id, "deeper/web.nvram0", 131'072, "/var/lib/firmware/web.fd"}};
    vm.current_snapshot = snapshot.id;
    vm.resumes_from = snapshot.id;
    job.id = Uuid::make();
    job.kind = "create-snapshot";
    job.subject = {ObjectKind::vm, vm.id};
    job.state = JobState::failed;
    job.step = "nodes";
    job.started = from_usec(1'700'000'000'000'001);
    job.finished = from_usec(1'700'000'000'000'002);
    job.owner_uid = 4'000'000'000;
    job.done_bytes = 7;
    job.total_bytes = 8;
    job.error.emplace(ErrorCode::no_space, std::string("the disk is full"));
    job.result = {{"frozen-usec", 3}};
    job.plan = {{"overlays", Json::array()}};
}

Changes Sample::changes() const {
    Changes changes;
    changes.put(pool).put(disk).put(base).put(active).put(vm).put(snapshot).put(job);
    return changes;
}

VolumeFacts facts_over(const std::string& backing) {
    VolumeFacts facts;
    facts.state = VolumeState::ok;
    facts.size = mib;
    if (!backing.empty())
        facts.backing =
            BackingReference{std::filesystem::path(backing).filename().string(), backing, "qcow2"};
    return facts;
}

// --- failures -------------------------------------------------------------------------------------------

namespace {

void limit_files(rlim_t bytes) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) < 0) throw system_error(errno, "getrlimit");
    limit.rlim_cur = std::min(bytes, limit.rlim_max);
    if (::setrlimit(RLIMIT_FSIZE, &limit) < 0) throw system_error(errno, "setrlimit");
}

}  // namespace

FileSizeLimit::FileSizeLimit(std::uint64_t bytes) {
    (void)::signal(SIGXFSZ, SIG_IGN);
    limit_files(bytes);
}

FileSizeLimit::~FileSizeLimit() {
    limit_files(RLIM_INFINITY);
}

// --- engines --------------------------------------------------------------------------------------------

Settings quick_settings() {
    Settings settings;
    settings.agent_sync_timeout = std::chrono::milliseconds(300);
    settings.freeze_timeout = std::chrono::milliseconds(500);
    settings.thaw_timeout = std::chrono::milliseconds(500);
    settings.greeting_timeout = std::chrono::seconds(5);
    settings.command_timeout = std::chrono::seconds(10);
    return settings;
}

TestEngine::TestEngine(async::Executor executor, Settings settings)
    : executor_(std::move(executor)), settings_(std::move(settings)) {
    for (const char* name : {"state", "run"}) std::filesystem::create_directory(directory_ / name);
    engine_ = std::make_unique<Engine>(executor_, settings_, directory_ / "state", directory_ / "run");
}

Task<> TestEngine::restart() {
    co_await engine_->stop();
    engine_.reset();
    engine_ = std::make_unique<Engine>(executor_, settings_, directory_ / "state", directory_ / "run");
    co_await engine_->start();
}

Task<JobRecord> TestEngine::ended(Uuid job) {
    if (const JobPtr live = engine_->jobs().find(job)) co_await live->wait(soon());
    co_return engine_->catalog().job(job);
}

Task<Json> TestEngine::finish(Uuid job) {
    const JobRecord record = co_await ended(job);
    EXPECT_EQ(word(record.state), "succeeded") << (record.error ? record.error->what() : "");
    co_return record.result;
}

Task<Error> TestEngine::failure(Uuid job) {
    const JobRecord record = co_await ended(job);
    EXPECT_EQ(word(record.state), "failed") << record.result.dump();
    co_return record.error.value_or(Error(ErrorCode::internal, std::string("no error")));
}

}  // namespace volchain::storage
