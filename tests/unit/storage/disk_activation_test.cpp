// SPDX-License-Identifier: MIT
#include "storage/qemu/disk_activation.h"

#include "support.h"

namespace volchain::storage::disk_activation_test {
namespace {

using async::Task;

/// As a QEMU 7.2 was seen to, whose migration is complete.
Task<> not_done_with_it(qmp::FakePeer& peer, bool& exported) {
    co_await peer.answer("query-status", R"("return": {"status": "finish-migrate"})");
    co_await peer.answer("query-status", R"("return": {"status": "finish-migrate"})");
    co_await peer.answer("query-status", R"("return": {"status": "postmigrate"})");
    co_await peer.answer("query-qmp-schema", R"("return": [])");
    co_await peer.answer("query-named-block-nodes", R"("return": [{"node-name": "vol0"}])");
    co_await peer.answer("block-export-add", R"("error": {"class": "GenericError", "desc": "no server"})");
    exported = true;
}

Task<> wait_for_it(bool& exported) {
    qmp::FakeSession fake = co_await qmp::fake_session();
    co_await qmp::together(not_done_with_it(*fake.peer, exported), activate_disks(fake.session, soon()));
}

/// Left inactive, the disks of a guest that stands still end its QEMU with the first block job.
TEST(DiskActivation, WaitsUntilQemuHasDoneWithTheMigration) {
    bool exported = false;
    async::run(wait_for_it(exported));
    EXPECT_TRUE(exported);
}

Task<> that_runs(qmp::FakePeer& peer) {
    co_await peer.answer("query-status", R"("return": {"status": "running"})");
}

Task<> leave_alone() {
    qmp::FakeSession fake = co_await qmp::fake_session();
    co_await qmp::together(that_runs(*fake.peer), activate_disks(fake.session, soon()));
}

TEST(DiskActivation, HasNothingToDoWhereTheGuestRuns) {
    async::run(leave_alone());
}

}  // namespace
}  // namespace volchain::storage::disk_activation_test
