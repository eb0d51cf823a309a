// SPDX-License-Identifier: MIT
//
// The overlays of an operation on the disks of a real QEMU that does not run its guest.
#include "storage/volumes/overlays.h"

#include <csignal>
#include <filesystem>

#include "base/text.h"
#include "storage/vms/vms.h"
#include "support.h"

namespace volchain::storage::overlays_test {
namespace {

namespace fs = std::filesystem;
using Words = std::vector<std::string>;

/// A VM with two disks of one image each.
class Site {
  public:
    Site(const async::Executor& executor, const Settings& settings) : engine(executor, settings) {}

    Task<> start() {
        Words options;
        for (const std::string name : {"a", "b"}) {
            qcow2::create(path(name), "1M");
            options.insert(
                options.end(),
                {"-blockdev",
                 R"({"driver": "qcow2", "node-name": ")" + name +
                     R"(", "file": {"driver": "file", "filename": ")" + path(name) + R"("}})",
                 "-device", "virtio-blk-pci,id=dev-" + name + ",serial=" + name + ",drive=" + name});
        }
        qemu = co_await qmp::Qemu::start(engine.directory(), std::move(options));
        co_await engine->start();
        VmRequest request("web");
        request.qmp_socket = engine.directory() / "qemu.sock";
        vm = co_await register_vm(*engine, std::move(request));
    }
    [[nodiscard]] std::string path(const std::string& name) const { return engine.directory() / name; }
    [[nodiscard]] const DiskRecord& disk(const std::string& target) {
        for (const auto& [id, record] : engine->catalog().disks())
            if (record.target == target) return record;
        throw Error(ErrorCode::not_found, "no disk {}", target);
    }
    [[nodiscard]] Overlays overlays(OnDiskFailure on_failure = OnDiskFailure::abort) {
        Overlays all(*engine, vm, on_failure);
        for (const char* target : {"a", "b"}) all.add(disk(target).id);
        return all;
    }
    /// What a restarted daemon has of them.
    [[nodiscard]] Overlays recovered(const Overlays& overlays) {
        const Json plan = parse_json(overlays.plan().dump(), "plan", ErrorCode::internal);
        return Overlays::from_plan(*engine, JsonReader(plan, "plan", ErrorCode::internal));
    }
    /// The VM's images; nothing of what was begun.
    void expect_untouched() {
        Words names;
        for (const auto& entry : fs::directory_iterator(engine.directory().path()))
            if (entry.is_regular_file()) names.push_back(entry.path().filename());
        EXPECT_THAT(names, UnorderedElementsAre("a", "b"));
    }
    Task<std::size_t> nodes() {
        const qmp::BlockGraph graph = co_await qmp::read_block_graph(qemu->session, soon());
        co_return graph.nodes().size();
    }
    Task<std::string> active_file(std::string device) {
        const qmp::BlockGraph graph = co_await qmp::read_block_graph(qemu->session, soon());
        co_return graph.file(graph.find_device(device)->root).value_or("");
    }

    TestEngine engine;
    std::unique_ptr<qmp::Qemu> qemu;
    Uuid vm;
};

using Test = Task<> (*)(Site&);
Task<> with_site(Test test, Settings settings = quick_settings()) {
    Site site(co_await async::asio::this_coro::executor, settings);
    co_await site.start();
    std::exception_ptr failure;
    co_await async::keep_failure(test(site), failure);
    co_await site.engine->stop();
    if (failure) std::rethrow_exception(failure);
}

Task<> commit(Site& site, Overlays& overlays) {
    overlays.make_known();
    co_await site.engine->catalog().commit(overlays.changes(), Durability::process);
}

Task<> switched(Site& site) {
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    co_await overlays.add_nodes();
    const auto times = co_await overlays.switch_over();
    EXPECT_LT(times.sent, times.answered);
    co_await commit(site, overlays);
    const Catalog& catalog = site.engine->catalog();
    for (const PlannedOverlay& overlay : overlays.all()) {
        const DiskRecord& disk = catalog.disk(overlay.disk);
        EXPECT_EQ(disk.active, overlay.volume);
        EXPECT_THAT(catalog.chain(disk.active), ElementsAre(overlay.volume, overlay.parent));
        const std::string active = co_await site.active_file("dev-" + disk.target);
        EXPECT_EQ(active, catalog.path(catalog.volume(overlay.volume)));
        EXPECT_NE(site.engine->vm(site.vm).find_disk(active), nullptr) << "without asking QEMU again";
    }
    // And on top of that, the next ones.
    Overlays next = site.overlays();
    co_await next.create_files();
    co_await next.add_nodes();
    (void)co_await next.switch_over();
    co_await commit(site, next);
    EXPECT_EQ(catalog.chain(site.disk("a").active).size(), 3u);
}
TEST(Overlays, AreSwitchedToAllAtOnce) {
    async::run(with_site(switched));
}

Task<> undone(Site& site) {
    const std::size_t nodes = co_await site.nodes();
    for (int done = 0; done <= 2; ++done) {
        Overlays overlays = site.overlays();
        if (done > 0) co_await overlays.create_files();
        if (done > 1) co_await overlays.add_nodes();
        Overlays after = site.recovered(overlays);
        const auto side = co_await after.settle();
        EXPECT_EQ(side, Overlays::Side::before_switch);
        co_await after.undo(done > 1);
        site.expect_untouched();
        const std::size_t left = co_await site.nodes();
        EXPECT_EQ(left, nodes);
    }
}
TEST(Overlays, AreTakenAwayWithoutATrace) {
    async::run(with_site(undone));
}

Task<> crashed_after_switch(Site& site) {
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    co_await overlays.add_nodes();
    (void)co_await overlays.switch_over();
    Overlays after = site.recovered(overlays);
    const auto side = co_await after.settle();
    EXPECT_EQ(side, Overlays::Side::after_switch);
    co_await commit(site, after);
    for (const PlannedOverlay& overlay : after.all()) {
        const VolumeFacts& facts = site.engine->catalog().facts(overlay.volume);
        EXPECT_EQ(word(facts.state), "ok") << facts.problem;
        EXPECT_EQ(facts.size, mib);
        EXPECT_EQ(site.engine->broken(overlay.disk), "");
    }
}
TEST(Overlays, AreKnownToBeWholeAfterACrashBehindTheSwitch) {
    async::run(with_site(crashed_after_switch));
}

Task<> qemu_gone(Site& site) {
    Overlays untouched = site.overlays();
    co_await untouched.create_files();
    co_await untouched.add_nodes();
    (void)co_await untouched.switch_over();
    const PlannedOverlay written = untouched.all().front();
    site.qemu.reset();  // SIGKILL
    while (!site.engine->vm(site.vm).down()) co_await site.engine->vm(site.vm).wait_changed(soon());
    Overlays after = site.recovered(untouched);
    const auto before = co_await after.settle();
    EXPECT_EQ(before, Overlays::Side::before_switch) << "nothing is in them: undoing loses nothing";
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 512", site.path(written.file)});
    const auto behind = co_await after.settle();
    EXPECT_EQ(behind, Overlays::Side::after_switch) << "the guest has written to one of them";
}
TEST(Overlays, AreJudgedByTheirFilesWhereQemuIsGone) {
    async::run(with_site(qemu_gone));
}

/// Moves the images away and back, as a file system that is mounted over the directory.
class Mount {
  public:
    explicit Mount(const std::string& directory) : directory_(directory) {}
    void away() const { move(directory_, directory_ + "/run"); }
    void back() const { move(directory_ + "/run", directory_); }

  private:
    static void move(const std::string& from, const std::string& to) {
        std::vector<fs::path> files;
        for (const auto& entry : fs::directory_iterator(from))
            if (entry.is_regular_file()) files.push_back(entry.path());
        for (const fs::path& file : files) fs::rename(file, to / file.filename());
    }
    std::string directory_;
};

Task<> pool_away(Site& site) {
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    co_await overlays.add_nodes();
    (void)co_await overlays.switch_over();
    site.qemu.reset();
    while (!site.engine->vm(site.vm).down()) co_await site.engine->vm(site.vm).wait_changed(soon());
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 512", site.path(overlays.all().back().file)});

    const Mount mount(site.engine.directory().path());
    mount.away();
    Overlays after = site.recovered(overlays);
    Overlays::Side side{};
    std::exception_ptr failure;
    async::TaskGroup settling(site.engine->executor());
    settling.spawn(async::keep_result(after.settle(), side, failure), "settling");
    co_await async::sleep_until(qmp::after_ms(300));
    EXPECT_EQ(settling.size(), 1u) << "files that cannot be seen say nothing";
    mount.back();
    co_await settling.drain();
    EXPECT_EQ(failure, nullptr);
    EXPECT_EQ(side, Overlays::Side::after_switch);
}
TEST(Overlays, WaitForTheirPoolToBeMounted) {
    Settings settings = quick_settings();
    settings.pool_check_interval = std::chrono::seconds(1);
    async::run(with_site(pool_away, settings));
}

Task<> qemu_hangs(Site& site) {
    const std::size_t nodes = co_await site.nodes();
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    co_await overlays.add_nodes();
    site.qemu->process.signal(SIGSTOP);
    std::exception_ptr failure;
    async::TaskGroup undoing(site.engine->executor());
    undoing.spawn(async::keep_failure(overlays.undo(true), failure), "undoing");
    co_await async::sleep_until(qmp::after_ms(3500));
    EXPECT_EQ(undoing.size(), 1u) << "it has the nodes still";
    site.qemu->process.signal(SIGCONT);
    co_await undoing.drain();
    EXPECT_EQ(failure, nullptr);
    site.expect_untouched();
    const std::size_t left = co_await site.nodes();
    EXPECT_EQ(left, nodes);
}
TEST(Overlays, AreTakenAwayWhenAQemuThatHungGoesOn) {
    Settings settings = quick_settings();
    settings.command_timeout = std::chrono::seconds(3);  // less than the wait above: it is tried again
    settings.pool_check_interval = std::chrono::seconds(1);
    async::run(with_site(qemu_hangs, settings));
}

Task<> held_for_a_moment(Site& site) {
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    const std::string path = site.path(overlays.all().front().file);
    auto held = std::make_optional(
        qmp::ImageLock::take_writer(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), path));
    std::exception_ptr failure;
    async::TaskGroup undoing(site.engine->executor());
    undoing.spawn(async::keep_failure(overlays.undo(true), failure), "undoing");
    co_await async::sleep_until(qmp::after_ms(300));
    EXPECT_EQ(undoing.size(), 1u);
    held.reset();
    co_await undoing.drain();
    EXPECT_EQ(failure, nullptr);
    site.expect_untouched();
}
TEST(Overlays, AreTakenAwayWhenAHelperOfAnEarlierLifeHasEnded) {
    async::run(with_site(held_for_a_moment));
}

Task<> one_fails(Site& site) {
    Overlays abort = site.overlays();
    qcow2::store(site.path(abort.all().back().file), qcow2::Bytes(1));
    co_await expect_failure(abort.create_files(), ErrorCode::already_exists, "disk 'web-b'");
    fs::remove(site.path(abort.all().back().file));
    co_await abort.undo(false);
    site.expect_untouched();

    Overlays exclude = site.overlays(OnDiskFailure::exclude);
    qcow2::store(site.path(exclude.all().back().file), qcow2::Bytes(1));
    co_await exclude.create_files();
    EXPECT_EQ(exclude.kept().size(), 1u);
    EXPECT_TRUE(exclude.all().back().dropped);
    EXPECT_THAT(exclude.all().back().why_dropped, HasSubstr("File exists"));
    Overlays after = site.recovered(exclude);
    EXPECT_EQ(after.all().back().why_dropped, exclude.all().back().why_dropped);
    co_await exclude.add_nodes();
    (void)co_await exclude.switch_over();
    co_await commit(site, exclude);
    EXPECT_EQ(site.engine->catalog().chain(site.disk("a").active).size(), 2u);
    EXPECT_EQ(site.engine->catalog().chain(site.disk("b").active).size(), 1u);
}
TEST(Overlays, DoWithoutADiskOrNotAtAll) {
    async::run(with_site(one_fails));
}

Task<> none_left(Site& site) {
    Overlays overlays = site.overlays(OnDiskFailure::exclude);
    for (const PlannedOverlay& overlay : overlays.all())
        qcow2::store(site.path(overlay.file), qcow2::Bytes(1));
    co_await expect_failure(overlays.create_files(), ErrorCode::already_exists, "no disk is left");
}
TEST(Overlays, OfNoDiskAreAFailure) {
    async::run(with_site(none_left));
}

Task<> bitmaps(Site& site) {
    const auto add = [](Site& place, std::string arguments) -> Task<> {
        (void)co_await place.qemu->session->execute("block-dirty-bitmap-add", qmp::json(arguments), soon());
    };
    co_await add(site, R"({"node": "a", "name": "kept", "persistent": true, "granularity": 131072})");
    co_await add(site, R"({"node": "a", "name": "off", "persistent": true, "disabled": true})");
    co_await add(site, R"({"node": "a", "name": "passing"})");
    co_await site.engine->vm(site.vm).read_disks();
    Overlays overlays = site.overlays();
    co_await overlays.create_files();
    co_await overlays.add_nodes();
    (void)co_await overlays.switch_over();
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(site.qemu->session, soon());
    const qmp::Node* const node = graph.find(overlays.all().front().node());
    EXPECT_NE(node, nullptr);
    if (node == nullptr) co_return;
    EXPECT_EQ(node->bitmaps.size(), 1u);
    EXPECT_EQ(node->bitmaps.front().name, "kept");
    EXPECT_EQ(node->bitmaps.front().granularity, 131072u);
    EXPECT_TRUE(node->bitmaps.front().persistent && node->bitmaps.front().recording);
}
TEST(Overlays, CarryRecordingBitmapsOn) {
    async::run(with_site(bitmaps));
}

TEST(PlannedOverlay, HasShortNodeNamesOfItsOwn) {
    PlannedOverlay one;
    PlannedOverlay other;
    one.volume = Uuid::make();
    other.volume = Uuid::make();
    for (const std::string& node : {one.node(), one.file_node()}) {
        EXPECT_LE(node.size(), 31u);  // QEMU's limit for node names
        EXPECT_THAT(node, testing::MatchesRegex("[a-z][a-z0-9-]*"));
    }
    EXPECT_NE(one.node(), one.file_node());
    EXPECT_NE(one.node(), other.node());
}

}  // namespace
}  // namespace volchain::storage::overlays_test
