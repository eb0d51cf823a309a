// SPDX-License-Identifier: MIT
//
// A VM as its monitor shows it: with a real QEMU that does not run its guest, and with a monitor that does as it is
// told.
#include "storage/vms/vm.h"

#include "base/text.h"
#include "storage/snapshots/create_snapshot.h"
#include "storage/vms/vms.h"
#include "support.h"

namespace volchain::storage::vm_test {
namespace {

class Owner final : public VmOwner {
  public:
    void vm_changed(const Uuid&) override {}
    Task<> vm_connected(Uuid) override { co_return; }
};

// --- events beside answers ------------------------------------------------------------------------------

Task<> event_beside_answer() {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const TemporaryDirectory directory;
    qmp::FakeServer server(executor, directory / "qmp");
    const Settings settings = quick_settings();
    Owner owner;
    VmRecord record;
    record.id = Uuid::make();
    record.qmp_socket = directory / "qmp";
    const auto vm = std::make_shared<Vm>(executor, record, settings, owner);
    vm->start();
    const auto monitor = co_await server.accept();
    co_await monitor->greet();
    const std::uint64_t chardevs = co_await monitor->hear_command("query-chardev");
    co_await monitor->say(fmt::format("{{\"return\": [], \"id\": {}}}\r\n", chardevs));
    const std::uint64_t status = co_await monitor->hear_command("query-status");
    // In one piece, so that the event is there before anybody has seen the answer.
    std::string both = fmt::format(
        "{{\"return\": {{\"status\": \"running\", \"running\": true, \"singlestep\": false}}, \"id\": "
        "{}}}\r\n",
        status);
    both += R"({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}})";
    both += "\r\n";
    co_await monitor->say(both);
    (void)co_await monitor->hear_command("query-blockstats");
    EXPECT_EQ(word(vm->state()), "paused") << "the event is newer than the answer";
    co_await vm->stop();
}
TEST(Vm, BelievesAnEventMoreThanAnOlderAnswer) {
    async::run(event_beside_answer());
}

// --- those who wait without a lock ----------------------------------------------------------------------

/// A monitor that takes the connection and says nothing.
struct Silence {
    explicit Silence(const async::Executor& executor) : server(executor, directory / "qmp") {}
    TemporaryDirectory directory;
    qmp::FakeServer server;
};

Task<> gone_while_waiting() {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    Silence silence(executor);
    TestEngine engine(executor);
    co_await engine->start();
    const Uuid vm = co_await register_vm(*engine, VmRequest("web"));
    VmUpdate update;
    update.qmp_socket = silence.directory / "qmp";
    for (const bool unregister : {false, true}) {
        update.qmp_socket = silence.directory / "qmp";
        co_await update_vm(*engine, vm, update);
        std::exception_ptr failure;
        async::TaskGroup calls(executor);
        calls.spawn(async::keep_failure(create_snapshot(*engine, SnapshotRequest(vm, "s1")), failure),
                    "a call");
        const auto monitor = co_await silence.server.accept();
        update.qmp_socket = "";
        if (unregister)
            co_await unregister_vm(*engine, vm, false);
        else
            co_await update_vm(*engine, vm, update);
        co_await calls.drain();
        EXPECT_NE(failure, nullptr);
        if (!failure) continue;
        const Error error = to_error(failure);
        EXPECT_EQ(name(error.code()), name(ErrorCode::busy)) << error.what();
    }
    co_await engine->stop();
}
TEST(Vm, IsThereAsLongAsSomebodyWaitsForIt) {
    async::run(gone_while_waiting());
}

}  // namespace
}  // namespace volchain::storage::vm_test
