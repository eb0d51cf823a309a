// SPDX-License-Identifier: MIT
#include "qmp/job.h"

#include <sys/mount.h>

#include <csignal>
#include <fstream>

#include "qmp/block_graph.h"
#include "qmp/node.h"
#include "support.h"

namespace volchain::qmp::job_test {
namespace {

/// A small file system of its own, where that can be had.
class SmallFileSystem {
  public:
    explicit SmallFileSystem(std::string path) : path_(std::move(path)) {
        std::filesystem::create_directory(path_);
        mounted_ = ::mount("tmpfs", path_.c_str(), "tmpfs", 0, "size=4M") == 0;
    }
    SmallFileSystem(const SmallFileSystem&) = delete;
    SmallFileSystem& operator=(const SmallFileSystem&) = delete;
    ~SmallFileSystem() {
        if (mounted_) (void)::umount2(path_.c_str(), MNT_DETACH);
    }
    [[nodiscard]] bool mounted() const noexcept { return mounted_; }
    void grow() const { EXPECT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, "size=64M"), 0); }
    [[nodiscard]] std::string operator/(std::string_view name) const {
        return path_ + "/" + std::string(name);
    }

  private:
    std::string path_;
    bool mounted_ = false;
};

constexpr const char* no_mount =
    "needs the right to mount a small tmpfs: errors for lack of space are NOT tested";

/// A daemon that has base <- top open, with 8 MiB of data in top.
struct Setup {
    TemporaryDirectory directory;
    std::shared_ptr<StorageDaemon> daemon;
    std::shared_ptr<Session> session;
};

Task<> add(std::shared_ptr<Session> session, Json node) {
    (void)co_await session->execute("blockdev-add", std::move(node), soon());
}

Task<> open_chain(Setup& setup) {
    create_image(setup.directory / "base", "qcow2", "16M");
    create_image(setup.directory / "top", "qcow2", "16M", "base", "qcow2");
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", setup.directory / "top"});
    setup.daemon = co_await storage_daemon(setup.directory);
    setup.session = setup.daemon->session();
    const NodeOptions plain;
    Json base = format_node("base", "qcow2",
                            file_node("base-file", setup.directory / "base", Access::automatic, plain),
                            Access::read_only, plain);
    co_await add(setup.session, without_backing(std::move(base)));
    Json top =
        format_node("top", "qcow2", file_node("top-file", setup.directory / "top", Access::read_write, plain),
                    Access::read_write, plain);
    co_await add(setup.session, with_backing(std::move(top), "base"));
}

Json commit_arguments() {
    return json(R"({"device": "top", "base-node": "base"})");
}

/// A qcow2 node "target" over a new file.
Task<> add_target(std::shared_ptr<Session> session, std::string path, std::string size) {
    create_image(path, "qcow2", size);
    const NodeOptions plain;
    Json node = format_node("target", "qcow2", file_node("target-file", path, Access::read_write, plain),
                            Access::read_write, plain);
    co_await add(session, std::move(node));
}

Json mirror_arguments(std::string_view on_target_error) {
    Json mirror = json(R"({"device": "top", "target": "target", "sync": "full"})");
    mirror["on-target-error"] = on_target_error;
    return mirror;
}

Json create_arguments(std::string_view driver, Json options) {
    options["driver"] = driver;
    Json arguments;
    arguments["options"] = std::move(options);
    return arguments;
}

// --- blockdev-create ---------------------------------------------------------------------------------------

Task<> creates() {
    const TemporaryDirectory directory;
    const auto daemon = co_await storage_daemon(directory);
    std::ofstream(directory / "new").flush();
    co_await add(daemon->session(), file_node("file", directory / "new", Access::read_write, {}));
    Job job(daemon->session(), "create-1");
    EXPECT_EQ(job.status(), JobStatus::undefined);
    Json arguments = create_arguments("qcow2", json(R"({"file": "file", "size": 1048576})"));
    co_await job.start("blockdev-create", std::move(arguments), soon());
    co_await job.finish(soon());
    EXPECT_TRUE(job.ended());
    EXPECT_EQ((co_await job.query(soon())).status, JobStatus::null) << "not dismissed";

    Job bad(daemon->session(), "create-2");
    arguments = create_arguments("qcow2", json(R"({"file": "file", "size": 1000, "cluster-size": 7})"));
    co_await bad.start("blockdev-create", std::move(arguments), soon());
    const Error error = co_await failure_of(bad.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::qemu_failed);
    EXPECT_NE(std::string(error.what()).find("job 'create-2' failed: "), std::string::npos) << error.what();

    Job refused(daemon->session(), "create-3");
    arguments = create_arguments("qcow2", json(R"({"file": "nothing", "size": 1048576})"));
    co_await refused.start("blockdev-create", std::move(arguments), soon());
    const Error missing = co_await failure_of(refused.finish(soon()));
    EXPECT_EQ(missing.code(), ErrorCode::qemu_failed);
    EXPECT_TRUE(co_await daemon->stop(soon()));
    EXPECT_NE(run_program({"qemu-img", "info", directory / "new"}).find("file format: qcow2"),
              std::string::npos);
}
TEST(Job, CreatesImages) {
    async::run(creates());
}

Task<> create_without_space(const TemporaryDirectory& directory, const SmallFileSystem& small) {
    const auto daemon = co_await storage_daemon(directory);
    Json options;
    options["filename"] = small / "new";
    options["size"] = 16 << 20;
    options["preallocation"] = "full";
    std::ofstream(small / "new").flush();
    Job job(daemon->session(), "create");
    Json arguments = create_arguments("file", std::move(options));
    co_await job.start("blockdev-create", std::move(arguments), soon());
    const Error error = co_await failure_of(job.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::no_space) << error.what();
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(Job, FailsForLackOfSpace) {
    const TemporaryDirectory directory;
    const SmallFileSystem small(directory / "small");
    if (!small.mounted()) GTEST_SKIP() << no_mount;
    async::run(create_without_space(directory, small));
}

// --- block jobs --------------------------------------------------------------------------------------------

Task<> active_commit() {
    Setup setup;
    co_await open_chain(setup);
    Job job(setup.session, "commit");
    co_await job.start("block-commit", commit_arguments(), soon());
    EXPECT_TRUE(co_await job.until_ready(soon()));
    EXPECT_EQ(job.status(), JobStatus::ready);
    const JobInfo info = co_await job.query(soon());
    EXPECT_EQ(info.current, info.total);
    EXPECT_GT(info.total, 0u);
    co_await job.complete(soon());
    co_await job.finish(soon());
    const BlockGraph graph = co_await read_block_graph(setup.session, soon());
    EXPECT_EQ(graph.find("base")->bitmaps.size(), 0u);
    EXPECT_TRUE(co_await setup.daemon->stop(soon()));
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "read -P 7 0 8M", setup.directory / "base"});
}
TEST(Job, ActiveCommit) {
    async::run(active_commit());
}

Task<> pending_commit() {
    Setup setup;
    co_await open_chain(setup);
    create_image(setup.directory / "new", "qcow2", "16M");
    Json overlay =
        format_node("new", "qcow2", file_node("new-file", setup.directory / "new", Access::read_write, {}),
                    Access::read_write, {});
    co_await add(setup.session, without_backing(std::move(overlay)));
    (void)co_await setup.session->execute("blockdev-snapshot", json(R"({"node": "top", "overlay": "new"})"),
                                          soon());
    Job job(setup.session, "commit");
    Json arguments =
        json(R"({"device": "new", "top-node": "top", "base-node": "base", "auto-finalize": false})");
    co_await job.start("block-commit", std::move(arguments), soon());
    EXPECT_TRUE(co_await job.until_pending(soon()));
    co_await job.finalize(soon());
    EXPECT_FALSE(co_await job.until_ready(soon())) << "it had ended";
    co_await job.finish(soon());
    EXPECT_TRUE(co_await setup.daemon->stop(soon()));
}
TEST(Job, InactiveCommitWaitsForFinalize) {
    async::run(pending_commit());
}

Task<> cancelled() {
    Setup setup;
    co_await open_chain(setup);
    Job job(setup.session, "commit");
    Json slow = commit_arguments();
    slow["speed"] = 1;
    co_await job.start("block-commit", std::move(slow), soon());
    const Error late = co_await failure_of(job.until_ready(after_ms(50)));
    EXPECT_EQ(late.code(), ErrorCode::timeout) << late.what();
    co_await job.pause(soon());
    co_await job.resume(soon());
    co_await job.cancel(soon());
    const Error error = co_await failure_of(job.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::cancelled) << error.what();

    // Once more, and faster.
    Job again(setup.session, "commit");
    slow = commit_arguments();
    slow["speed"] = 1;
    co_await again.start("block-commit", std::move(slow), soon());
    co_await again.set_speed(0, soon());
    EXPECT_TRUE(co_await again.until_ready(soon()));
    co_await again.complete(soon());
    co_await again.finish(soon());
    EXPECT_TRUE(co_await setup.daemon->stop(soon()));
}
TEST(Job, CancelledAndStartedAgain) {
    async::run(cancelled());
}

Task<> mirror_left() {
    Setup setup;
    co_await open_chain(setup);
    co_await add_target(setup.session, setup.directory / "target", "16M");
    Job job(setup.session, "mirror");
    co_await job.start("blockdev-mirror", mirror_arguments("report"), soon());
    EXPECT_TRUE(co_await job.until_ready(soon()));
    co_await job.leave(soon());
    co_await job.finish(soon());
    const BlockGraph graph = co_await read_block_graph(setup.session, soon());
    EXPECT_NE(graph.find("top"), nullptr);
    EXPECT_TRUE(co_await setup.daemon->stop(soon()));
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "read -P 7 0 8M", setup.directory / "target"});
}
TEST(Job, MirrorIsLeftWithoutSwitching) {
    async::run(mirror_left());
}

Task<> stops_for_lack_of_space(const SmallFileSystem& small) {
    Setup setup;
    co_await open_chain(setup);
    co_await add_target(setup.session, small / "target", "16M");
    Job job(setup.session, "mirror");
    co_await job.start("blockdev-mirror", mirror_arguments("stop"), soon());
    const Error error = co_await failure_of(job.until_ready(soon()));
    EXPECT_EQ(error.code(), ErrorCode::no_space) << error.what();
    EXPECT_NE(std::string(error.what()).find("write error"), std::string::npos) << error.what();
    // Whoever takes the job up later learns the same.
    Job other(setup.session, "mirror");
    co_await other.attach(soon());
    EXPECT_FALSE(other.ended());
    const Error same = co_await failure_of(other.until_ready(soon()));
    EXPECT_EQ(same.code(), ErrorCode::no_space) << same.what();
    // And it goes on when there is room.
    small.grow();
    // Writes that were under way when it stopped may fail after it has been resumed, and stop it once more.
    bool ready = false;
    for (int turn = 0; turn < 20 && !ready; ++turn) {
        co_await job.resume(soon());
        std::exception_ptr stopped;
        co_await async::keep_result(job.until_ready(soon()), ready, stopped);
        if (stopped) {
            EXPECT_EQ(to_error(stopped).code(), ErrorCode::no_space);
        }
    }
    EXPECT_TRUE(ready);
    co_await job.complete(soon());
    co_await job.finish(soon());
    EXPECT_TRUE(co_await setup.daemon->stop(soon()));
}
TEST(Job, StopsForLackOfSpaceAndGoesOn) {
    const TemporaryDirectory directory;
    const SmallFileSystem small(directory / "small");
    if (!small.mounted()) GTEST_SKIP() << no_mount;
    async::run(stops_for_lack_of_space(small));
}

// --- reconnecting, and losing it ---------------------------------------------------------------------------

Task<> taken_up_again() {
    Setup setup;
    create_image(setup.directory / "base", "qcow2", "16M");
    create_image(setup.directory / "top", "qcow2", "16M", "base", "qcow2");
    (void)run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", setup.directory / "top"});
    const auto qemu = co_await Qemu::start(setup.directory, Words());
    const NodeOptions plain;
    co_await add(
        qemu->session,
        format_node("top", "qcow2", file_node("f", setup.directory / "top", Access::read_write, plain),
                    Access::read_write, plain));
    {
        Job job(qemu->session, "commit");
        co_await job.start("block-commit", json(R"({"device": "top", "speed": 1073741824})"), soon());
        co_await qemu->session->close();
    }
    // What happens now is told to nobody.
    const auto session = co_await Session::connect(setup.directory / "qemu.sock", soon());
    Job job(session, "commit");
    co_await job.attach(soon());
    EXPECT_NE(job.status(), JobStatus::undefined);
    EXPECT_EQ(job.found_speed(), 1073741824U);
    EXPECT_TRUE(co_await job.until_ready(soon()));
    co_await job.complete(soon());
    co_await job.finish(soon());

    Job none(session, "none");
    co_await none.attach(soon());
    EXPECT_EQ(none.found_speed(), 0U);
    EXPECT_EQ(none.status(), JobStatus::null);
    EXPECT_FALSE(co_await none.until_ready(soon()));
    const Error error = co_await failure_of(none.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::qemu_failed) << error.what();
}
TEST(Job, IsTakenUpInANewSession) {
    async::run(taken_up_again());
}

Task<> await_end(Job& job) {
    const Error error = co_await failure_of(job.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::unreachable);
    EXPECT_NE(std::string(error.what()).find("signal 9"), std::string::npos) << error.what();
}

Task<> crash(StorageDaemon& daemon) {
    (void)::kill(daemon.pid(), SIGKILL);
    co_await daemon.wait_ended(soon());
}

Task<> lost() {
    Setup setup;
    co_await open_chain(setup);
    Job job(setup.session, "commit");
    Json slow = commit_arguments();
    slow["speed"] = 1;
    co_await job.start("block-commit", std::move(slow), soon());
    co_await together(await_end(job), crash(*setup.daemon));
}
TEST(Job, EndsWithItsDaemon) {
    async::run(lost());
}

// --- what a real one does not do at will -------------------------------------------------------------------

Task<> answer_jobs(FakePeer& peer, std::string status, int current, int total) {
    const std::uint64_t id = co_await peer.hear_command("query-jobs");
    co_await peer.say(
        fmt::format("{{\"id\": {}, \"return\": [{{\"id\": \"j\", \"type\": \"mirror\", \"status\": \"{}\", "
                    "\"current-progress\": {}, \"total-progress\": {}}}]}}\n",
                    id, status, current, total));
}

std::string status_event(std::string_view id, std::string_view status) {
    return fmt::format(
        "{{\"event\": \"JOB_STATUS_CHANGE\", \"data\": {{\"id\": \"{}\", \"status\": \"{}\"}}}}\n", id,
        status);
}

Task<> falls_back(FakePeer& peer) {
    co_await peer.say(status_event("other", "concluded") + status_event("j", "running") +
                      status_event("j", "ready"));
    co_await answer_jobs(peer, "ready", 5, 6);    // ready, but work is left
    co_await answer_jobs(peer, "standby", 6, 6);  // all is copied, but it is not ready
    co_await peer.say(status_event("j", "standby"));
    co_await peer.say(status_event("j", "ready"));
    co_await answer_jobs(peer, "ready", 6, 6);
}

Task<> expect_ready(Job& job) {
    EXPECT_TRUE(co_await job.until_ready(soon()));
}

Task<> ready_needs_both() {
    FakeSession fake = co_await fake_session();
    Job job(fake.session, "j");
    co_await together(falls_back(*fake.peer), expect_ready(job));
}
TEST(Job, IsReadyWhenItSaysSoAndHasCopiedEverything) {
    async::run(ready_needs_both());
}

Task<> vanish(FakePeer& peer) {
    co_await peer.say(status_event("j", "concluded"));
    const std::uint64_t id = co_await peer.hear_command("query-jobs");
    co_await peer.say(fmt::format("{{\"id\": {}, \"return\": []}}\n", id));
}

Task<> expect_unknown_end(Job& job) {
    const Error error = co_await failure_of(job.finish(soon()));
    EXPECT_EQ(error.code(), ErrorCode::qemu_failed);
    EXPECT_NE(std::string(error.what()).find("not known"), std::string::npos) << error.what();
}

/// Somebody else dismisses it before it was asked for its result: that is no success.
Task<> dismissed_by_another() {
    FakeSession fake = co_await fake_session();
    Job job(fake.session, "j");
    co_await together(vanish(*fake.peer), expect_unknown_end(job));
}
TEST(Job, AnUnknownEndIsNoSuccess) {
    async::run(dismissed_by_another());
}

Task<> end_undismissed(FakePeer& peer) {
    co_await peer.say(status_event("j", "concluded"));
    co_await answer_jobs(peer, "concluded", 1, 1);
    const std::uint64_t id = co_await peer.hear_command("job-dismiss");
    co_await peer.say(
        fmt::format("{{\"id\": {}, \"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}}}\n", id));
}

Task<> expect_success(Job& job) {
    co_await job.finish(soon());
}

Task<> not_dismissed() {
    FakeSession fake = co_await fake_session();
    Job job(fake.session, "j");
    co_await together(end_undismissed(*fake.peer), expect_success(job));
}
TEST(Job, ADismissalThatFailsDoesNotHideTheResult) {
    async::run(not_dismissed());
}

}  // namespace
}  // namespace volchain::qmp::job_test
