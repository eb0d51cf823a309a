// SPDX-License-Identifier: MIT
#include "daemon/publisher.h"

#include "async/condition.h"
#include "systemd/proxy.h"
#include "unit/storage/support.h"
#include "unit/systemd/bus_helpers.h"
#include "unit/systemd/private_bus.h"

namespace volchain::daemon::publisher_test {
namespace {

using namespace storage;
using async::run;
using async::Task;

class OpenGate : public bus::Gate {
    Task<> authorize(bus::Call) override { co_return; }
};

/// A publisher over an engine that does nothing by itself, and a client that hears what it tells.
struct Stage {
    Stage(async::Executor executor, bus::PrivateBus& private_bus)
        : connection(private_bus.connect()),
          client(private_bus.connect()),
          engine(executor),
          publisher(*connection, *engine, gate),
          ear(client->subscribe("type='signal',path_namespace='/org/volchain1'",
                                [this](const bus::Message& signal) { hear(signal); })) {}

    /// What there is before anybody looks.
    Task<> begin(Changes changes) {
        co_await engine->catalog().commit(std::move(changes), Durability::process);
        for (const auto& [id, vm] : engine->catalog().vms()) (void)engine->attend(vm);
        publisher.publish();
        (void)co_await bus::driver_of(*client).call<std::string>("GetId", bus::soon());
    }
    Task<> end() {
        co_await publisher.stop();
        co_await engine->stop();
    }

    /// Commits, and returns what is told of it, in order: "JobFinished", or "PropertiesChanged vm Disks,Name".
    Task<std::vector<std::string>> told_of(Changes changes) {
        heard.clear();
        co_await engine->catalog().commit(std::move(changes), Durability::process);
        // One turn finds out what changed, the next one tells.
        for (int turn = 0; turn < 3; ++turn) co_await async::yield();
        const std::string end = fmt::format("/org/volchain1/end{}", ++ends);
        bus::Message last = connection->signal(end, "x.y", "End");
        connection->send(last);
        while (heard.empty() || heard.back() != "End") co_await more.wait(bus::soon(), "signals");
        heard.pop_back();
        co_return heard;
    }

    void hear(const bus::Message& signal) {
        std::string text = signal.member();
        if (text == "PropertiesChanged") {
            const auto body =
                bus::read_body<std::tuple<std::string, bus::Dict, std::vector<std::string>>>(signal);
            text += " " + std::get<0>(body).substr(std::string("org.volchain1.").size());
            for (const auto& [property, value] : std::get<1>(body)) text += " " + property;
        }
        heard.push_back(std::move(text));
        more.notify();
    }

    OpenGate gate;
    std::unique_ptr<bus::Connection> connection;
    std::unique_ptr<bus::Connection> client;
    TestEngine engine;
    Publisher publisher;
    std::vector<std::string> heard;
    int ends = 0;
    async::Condition more;
    bus::Subscription ear;
};

VmRecord new_vm(const std::string& name) {
    VmRecord vm;
    vm.id = Uuid::make();
    vm.name = name;
    return vm;
}

Task<> a_disk_changes_hands() {
    const auto private_bus = co_await bus::PrivateBus::start();
    Stage stage(co_await async::asio::this_coro::executor, *private_bus);
    const Sample sample;
    const VmRecord other = new_vm("other");
    Changes before = sample.changes();
    before.put(other);
    co_await stage.begin(std::move(before));

    DiskRecord disk = sample.disk;
    disk.vm = other.id;
    Changes handed_over;
    handed_over.put(std::move(disk));
    const auto told = co_await stage.told_of(std::move(handed_over));
    EXPECT_THAT(told, UnorderedElementsAre("PropertiesChanged Disk VM", "PropertiesChanged VM Disks",
                                           "PropertiesChanged VM Disks"))
        << "both VMs show their disks";
    co_await stage.end();
}

TEST(PublisherTest, ADiskChangesHands) {
    run(a_disk_changes_hands());
}

Task<> layers_come_and_go() {
    const auto private_bus = co_await bus::PrivateBus::start();
    Stage stage(co_await async::asio::this_coro::executor, *private_bus);
    const Sample sample;
    co_await stage.begin(sample.changes());
    Catalog& catalog = stage.engine->catalog();

    const VolumeRecord overlay = new_volume(sample.disk.id, sample.pool.id, "overlay.qcow2");
    catalog.set_facts(overlay.id, facts_over(catalog.path(sample.active)));
    DiskRecord disk = sample.disk;
    disk.active = overlay.id;
    Changes switched;
    switched.put(overlay).put(disk);
    const auto told = co_await stage.told_of(std::move(switched));
    EXPECT_EQ(told.front(), "InterfacesAdded") << "before others name it";
    EXPECT_THAT(told, testing::Contains(testing::StartsWith("PropertiesChanged Disk Active")));
    EXPECT_THAT(told, testing::Contains("PropertiesChanged Volume Active Children")) << "the layer below";

    disk.active = sample.active.id;
    Changes back;
    back.put(disk).remove(ObjectKind::volume, overlay.id);
    const auto undone = co_await stage.told_of(std::move(back));
    EXPECT_THAT(undone, testing::Contains("InterfacesRemoved"));
    EXPECT_THAT(undone, testing::Contains("PropertiesChanged Volume Active Children"));
    co_await stage.end();
}

TEST(PublisherTest, LayersComeAndGo) {
    run(layers_come_and_go());
}

Task<> jobs_finish_once() {
    const auto private_bus = co_await bus::PrivateBus::start();
    Stage stage(co_await async::asio::this_coro::executor, *private_bus);
    Sample sample;
    sample.job.state = JobState::succeeded;
    co_await stage.begin(sample.changes());

    Changes of_an_earlier_life;
    of_an_earlier_life.put(sample.job);
    const auto nothing = co_await stage.told_of(std::move(of_an_earlier_life));
    EXPECT_THAT(nothing, IsEmpty());

    JobRecord job = sample.job;
    job.id = Uuid::make();
    job.state = JobState::running;
    Changes started;
    started.put(job);
    const auto added = co_await stage.told_of(std::move(started));
    EXPECT_THAT(added, ElementsAre("InterfacesAdded"));
    job.state = JobState::failed;
    for (const bool first : {true, false}) {
        Changes finished;
        finished.put(job);
        const auto told = co_await stage.told_of(std::move(finished));
        if (first)
            EXPECT_THAT(told, ElementsAre("PropertiesChanged Job State", "JobFinished"));
        else
            EXPECT_THAT(told, IsEmpty());
    }
    Changes forgotten;
    forgotten.remove(ObjectKind::job, job.id);
    const auto removed = co_await stage.told_of(std::move(forgotten));
    EXPECT_THAT(removed, ElementsAre("InterfacesRemoved"));
    co_await stage.end();
}

TEST(PublisherTest, JobsFinishOnce) {
    run(jobs_finish_once());
}

Task<> many_changes_are_one() {
    const auto private_bus = co_await bus::PrivateBus::start();
    Stage stage(co_await async::asio::this_coro::executor, *private_bus);
    const Sample sample;
    co_await stage.begin(sample.changes());
    Changes changes;
    VmRecord vm = sample.vm;
    for (const char* name : {"a", "b", "c"}) {
        vm.name = name;
        changes.put(vm);
    }
    const auto told = co_await stage.told_of(std::move(changes));
    EXPECT_THAT(told, ElementsAre("PropertiesChanged VM Name"));
    Changes the_same;
    the_same.put(vm);
    const auto nothing = co_await stage.told_of(std::move(the_same));
    EXPECT_THAT(nothing, IsEmpty()) << "what has not changed is not told";
    co_await stage.end();
}

TEST(PublisherTest, ManyChangesOfOneTurnAreOne) {
    run(many_changes_are_one());
}

}  // namespace
}  // namespace volchain::daemon::publisher_test
