// SPDX-License-Identifier: MIT
//
// What guests and QEMUs may answer when a device is to go, or to come; real ones are in tests/scenario/test_hotplug.py.
#include "storage/qemu/device.h"

#include "support.h"

namespace volchain::storage::device_test {
namespace {

using std::chrono::milliseconds;

/// What is said to a command of that id.
using Reply = std::function<std::string(std::uint64_t)>;

std::string refusal(std::uint64_t id, std::string_view error_class, std::string_view words) {
    return fmt::format(R"({{"error": {{"class": "{}", "desc": "{}"}}, "id": {}}})", error_class, words, id) +
           "\r\n";
}
std::string consent(std::uint64_t id) {
    return fmt::format(R"({{"return": {{}}, "id": {}}})", id) + "\r\n";
}
std::string event(std::string_view name, std::string_view data) {
    return fmt::format(R"({{"event": "{}", "data": {}, "timestamp": {{"seconds": 1, "microseconds": 2}}}})",
                       name, data) +
           "\r\n";
}

/// What the other side says to each request in turn.
Task<> answer(qmp::FakePeer& peer, std::string command, std::vector<Reply> replies) {
    for (const auto& reply : replies) {
        const std::uint64_t id = co_await peer.hear_command(command);
        co_await peer.say(reply(id));
    }
}

/// Asks for the departure of dev0 while the other side replies so; the error, if there is one.
Task<std::optional<Error>> depart(std::vector<Reply> replies, milliseconds limit) {
    qmp::FakeSession fake = co_await qmp::fake_session();
    async::TaskGroup other_side(co_await async::asio::this_coro::executor);
    std::exception_ptr failure;
    {
        Departure departure(fake.session, "/machine/peripheral-anon/device[0]/virtio-backend");
        other_side.spawn(answer(*fake.peer, "device_del", std::move(replies)), "the other side");
        co_await async::keep_failure(departure.wait(limit), failure);
        EXPECT_TRUE(departure.asked());
    }
    co_await fake.session->close();
    co_await other_side.stop();
    if (!failure) co_return std::nullopt;
    co_return to_error(failure);
}

const std::string gone =
    event("DEVICE_DELETED", R"({"path": "/machine/peripheral-anon/device[0]/virtio-backend"})") +
    event("DEVICE_DELETED", R"({"path": "/machine/peripheral-anon/device[0]"})");

Task<> lets_go() {
    std::vector<Reply> replies{[](auto id) { return consent(id) + gone; }};
    const auto error = co_await depart(std::move(replies), milliseconds(20'000));
    EXPECT_FALSE(error.has_value());
}
TEST(Departure, EndsWithTheEvent) {
    async::run(lets_go());
}

Task<> asked_again() {
    // QEMU takes no second request while the first is with the guest; then the device is gone, and the event was missed.
    std::vector<Reply> replies{
        [](auto id) { return consent(id); },
        [](auto id) { return refusal(id, "GenericError", "Hot-unplug failed: guest is busy"); },
        [](auto id) { return refusal(id, "DeviceNotFound", "Device 'x' not found"); }};
    const auto error = co_await depart(std::move(replies), milliseconds(400));
    EXPECT_FALSE(error.has_value());
}
TEST(Departure, IsAskedForAgain) {
    async::run(asked_again());
}

Task<> under_way() {
    std::vector<Reply> replies{[](auto id) {
        return refusal(id, "GenericError", "Device x is already in the process of unplug") + gone;
    }};
    const auto error = co_await depart(std::move(replies), milliseconds(20'000));
    EXPECT_FALSE(error.has_value());
}
TEST(Departure, MayBeUnderWayAlready) {
    async::run(under_way());
}

Task<> refused_by_qemu() {
    std::vector<Reply> replies{
        [](auto id) { return refusal(id, "GenericError", "Bus 'x' does not support hotplugging"); }};
    const auto error = co_await depart(std::move(replies), milliseconds(20'000));
    EXPECT_TRUE(error.has_value());
    if (!error) co_return;
    EXPECT_EQ(name(error->code()), "QemuFailed");
    EXPECT_THAT(error->what(), HasSubstr("does not support hotplugging"));
}
TEST(Departure, QemuMayRefuse) {
    async::run(refused_by_qemu());
}

Task<> refused_by_guest() {
    const std::string no =
        event("DEVICE_UNPLUG_GUEST_ERROR", R"({"path": "/machine/peripheral-anon/device[0]"})");
    std::vector<Reply> replies{[no](auto id) { return consent(id) + no; }};
    const auto error = co_await depart(std::move(replies), milliseconds(20'000));
    EXPECT_TRUE(error.has_value());
    if (!error) co_return;
    EXPECT_EQ(name(error->code()), "QemuFailed");
    EXPECT_THAT(error->what(), HasSubstr("guest refuses"));
}
TEST(Departure, TheGuestMayRefuse) {
    async::run(refused_by_guest());
}

Task<> silence() {
    // Another device goes meanwhile.
    const std::string other =
        event("DEVICE_DELETED", R"({"device": "dev1", "path": "/machine/peripheral/dev1"})");
    std::vector<Reply> replies(4, [other](std::uint64_t id) { return consent(id) + other; });
    const auto error = co_await depart(std::move(replies), milliseconds(200));
    EXPECT_TRUE(error.has_value());
    if (!error) co_return;
    EXPECT_EQ(name(error->code()), "Timeout");
    EXPECT_THAT(error->what(), HasSubstr("200 ms"));
}
TEST(Departure, MayNotComeAbout) {
    async::run(silence());
}

Task<> hung_up() {
    qmp::FakeSession fake = co_await qmp::fake_session();
    async::TaskGroup other_side(co_await async::asio::this_coro::executor);
    std::exception_ptr failure;
    {
        Departure departure(fake.session, "dev0");
        const auto end = [](qmp::FakePeer& peer) -> Task<> {
            (void)co_await peer.hear_command("device_del");
            peer.hang_up();
        };
        other_side.spawn(end(*fake.peer), "the other side");
        co_await async::keep_failure(departure.wait(milliseconds(20'000)), failure);
    }
    co_await other_side.stop();
    EXPECT_TRUE(failure != nullptr);
    if (!failure) co_return;
    EXPECT_EQ(name(to_error(failure).code()), "Unreachable");
}
TEST(Departure, EndsWithTheConnection) {
    async::run(hung_up());
}

// --- coming ---------------------------------------------------------------------------------------------

Task<> finds_a_port() {
    qmp::FakeSession fake = co_await qmp::fake_session();
    async::TaskGroup other_side(co_await async::asio::this_coro::executor);
    const auto serve = [](qmp::FakePeer& peer) -> Task<> {
        const std::string no = "Bus 'pcie.0' does not support hotplugging";
        std::uint64_t id = co_await peer.hear_command("device_add");
        co_await peer.say(refusal(id, "GenericError", no));
        id = co_await peer.hear_command("query-pci");
        // A device, a port with one behind it, one whose bridge is empty, one that the guest has not numbered yet.
        std::string buses = R"([{"bus": 0, "devices": [{"qdev_id": "net0"},
            {"qdev_id": "full", "pci_bridge": {"bus": {}, "devices": [{"qdev_id": "dev0"}]}},
            {"qdev_id": "free", "pci_bridge": {"bus": {}, "devices": []}},
            {"qdev_id": "", "pci_bridge": {"bus": {}}},
            {"qdev_id": "fresh", "pci_bridge": {"bus": {}}}]}])";
        std::erase(buses, '\n');
        co_await peer.say(fmt::format(R"({{"return": {}, "id": {}}})", buses, id) + "\r\n");
        Json request = co_await peer.hear_json();
        EXPECT_EQ(request.at("arguments").at("bus"), "free");
        co_await peer.say(refusal(request.at("id").get<std::uint64_t>(), "GenericError", "in use"));
        request = co_await peer.hear_json();
        EXPECT_EQ(request.at("arguments").at("bus"), "fresh");
        EXPECT_EQ(request.at("arguments").at("serial"), "data");
        co_await peer.say(consent(request.at("id").get<std::uint64_t>()));
    };
    other_side.spawn(serve(*fake.peer), "the other side");
    NewDevice device("virtio-blk-pci", "dev1", "node");
    device.serial = "data";
    co_await plug(fake.session, std::move(device), soon());
    co_await fake.session->close();
    co_await other_side.stop();
}
TEST(Plug, FindsAPortThatIsFree) {
    async::run(finds_a_port());
}

}  // namespace
}  // namespace volchain::storage::device_test
