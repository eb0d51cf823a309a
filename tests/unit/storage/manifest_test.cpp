// SPDX-License-Identifier: MIT
#include "storage/documents/manifest.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "support.h"

namespace volchain::storage::manifest_test {
namespace {

namespace fs = std::filesystem;

/// What another host reads.
Json read_document(const std::string& path) {
    return parse_json(read_file(path, 16 * mib), path, ErrorCode::corrupt_image);
}

class ManifestTest : public testing::Test {
  protected:
    ManifestTest() { fs::create_directory(sample_.pool.path); }

    Json document() {
        catalog_.commit(sample_.changes());
        return manifest(*catalog_, sample_.vm.id);
    }
    [[nodiscard]] std::string file() const {
        return sample_.pool.path + "/.volchain/" + sample_.vm.id.str() + ".json";
    }
    Json written() {
        write_manifest(sample_.pool.path, sample_.vm.id, document());
        return read_document(file());
    }

    TestCatalog catalog_;
    Sample sample_{catalog_.directory() / "pool"};
};

TEST_F(ManifestTest, SaysAllThatIsNeededToTakeTheVmOver) {
    const Json read = written();
    EXPECT_EQ(read.at("volchain-manifest"), 1);
    const Json& vm = read.at("vm");
    EXPECT_EQ(vm.at("id"), sample_.vm.id.str());
    EXPECT_EQ(vm.at("name"), "web");
    EXPECT_EQ(vm.at("config"), "<domain/>");
    EXPECT_EQ(vm.at("config-type"), "application/xml");
    EXPECT_EQ(vm.at("current-snapshot"), sample_.snapshot.id.str());
    EXPECT_FALSE(vm.contains("qmp-socket")) << "sockets are of this host";

    ASSERT_EQ(read.at("disks").size(), 1u);
    const Json& disk = read.at("disks")[0];
    EXPECT_EQ(disk.at("id"), sample_.disk.id.str());
    EXPECT_EQ(disk.at("name"), "root");
    EXPECT_EQ(disk.at("target"), "serial0");
    EXPECT_EQ(disk.at("active"), sample_.active.id.str());
    EXPECT_EQ(disk.at("shareable"), true);
    EXPECT_EQ(disk.at("node-options"), sample_.disk.node_options);
    std::map<std::string, Json> volumes;
    for (const Json& volume : disk.at("volumes")) volumes[volume.at("id").get<std::string>()] = volume;
    ASSERT_EQ(volumes.size(), 2u);
    const Json& base = volumes.at(sample_.base.id.str());
    EXPECT_EQ(base.at("pool"), sample_.pool.path);
    EXPECT_EQ(base.at("file"), "base.raw");
    EXPECT_EQ(base.at("format"), "raw");
    EXPECT_EQ(base.at("created-usec"), to_usec(sample_.base.created));
    EXPECT_EQ(volumes.at(sample_.active.id.str()).at("file"), "deeper/top.qcow2");

    ASSERT_EQ(read.at("snapshots").size(), 1u);
    const Json& snapshot = read.at("snapshots")[0];
    EXPECT_EQ(snapshot.at("id"), sample_.snapshot.id.str());
    EXPECT_EQ(snapshot.at("name"), "before the upgrade");
    EXPECT_EQ(snapshot.at("description"), "taken by hand");
    EXPECT_TRUE(snapshot.at("parent").is_null());
    EXPECT_EQ(snapshot.at("created-usec"), 1'700'000'000'123'456u);
    EXPECT_EQ(snapshot.at("vm-state"), "paused");
    EXPECT_EQ(snapshot.at("consistency"), "application");
    EXPECT_EQ(snapshot.at("status"), "partial");
    EXPECT_EQ(snapshot.at("origin"), "schedule");
    EXPECT_EQ(snapshot.at("config"), "<domain>then</domain>");
    EXPECT_EQ(snapshot.at("disks"),
              Json::array({{{"disk", sample_.disk.id.str()}, {"volume", sample_.base.id.str()}}}));
    EXPECT_EQ(snapshot.at("excluded")[0].at("why"), "no room");
}

TEST_F(ManifestTest, KeepsConfigurationsThatAreNoText) {
    const std::string bytes("\0\xff\xfe binary", 10);
    sample_.vm.config = bytes;
    sample_.snapshot.config = bytes;
    const Json read = written();
    for (const Json& place : {read.at("vm"), read.at("snapshots")[0]}) {
        EXPECT_FALSE(place.contains("config"));
        EXPECT_EQ(place.at("config-base64"), "AP/+IGJpbmFyeQ==");
    }
}

TEST_F(ManifestTest, SurvivesEveryNameThatIsAllowed) {
    sample_.vm.name = "\"quoted\" \\ and 日本語";
    sample_.disk.target = "serial \"0\"";
    EXPECT_EQ(written().at("vm").at("name"), sample_.vm.name);
}

TEST_F(ManifestTest, BelongsIntoEveryPoolWithAVolume) {
    const PoolRecord other{Uuid::make(), "other", "/other"};
    const PoolRecord unused{Uuid::make(), "unused", "/unused"};
    Changes changes = sample_.changes();
    changes.put(other).put(unused).put(new_volume(sample_.disk.id, other.id, "a"));
    catalog_.commit(std::move(changes));
    EXPECT_THAT(manifest_pools(*catalog_, sample_.vm.id), UnorderedElementsAre(sample_.pool.path, "/other"));
}

TEST_F(ManifestTest, IsForTheOwnerAlone) {
    const mode_t before = ::umask(0);
    (void)written();
    ::umask(before);
    struct stat status {};
    ASSERT_EQ(::stat(file().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u) << "configurations are nobody else's business";
    ASSERT_EQ(::stat((sample_.pool.path + "/.volchain").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700u);
}

TEST_F(ManifestTest, IsReplacedAsAWhole) {
    Json document = written();
    const std::string padding(200'000, 'x');
    std::atomic<bool> over = false;
    std::thread reader([&] {
        while (!over) {
            const Json read =
                read_document(file());  // throws, and so ends the test, where half of it is there
            EXPECT_EQ(read.at("vm").at("id"), sample_.vm.id.str());
        }
    });
    for (int round = 0; round < 50; ++round) {
        document["padding"] = padding.substr(0, static_cast<std::size_t>(round % 2) * padding.size());
        write_manifest(sample_.pool.path, sample_.vm.id, document);
    }
    over = true;
    reader.join();
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(sample_.pool.path + "/.volchain"))
        names.push_back(entry.path().filename().string());
    EXPECT_THAT(names, ElementsAre(sample_.vm.id.str() + ".json"));
}

TEST_F(ManifestTest, GoesOverWhatACrashLeft) {
    fs::create_directory(sample_.pool.path + "/.volchain");
    qcow2::store(sample_.pool.path + "/.volchain/." + sample_.vm.id.str() + ".json.new",
                 qcow2::Bytes(10, std::byte{'{'}));
    EXPECT_EQ(written().at("vm").at("name"), "web");
}

TEST_F(ManifestTest, IsNotWrittenThroughALink) {
    const TemporaryDirectory outside;
    fs::create_directory_symlink(outside.path(), sample_.pool.path + "/.volchain");
    expect_error(ErrorCode::unsafe_image, {".volchain"}, [&] { (void)written(); });
    EXPECT_TRUE(fs::is_empty(outside.path()));
}

TEST_F(ManifestTest, SaysThatThePoolIsGone) {
    fs::remove(sample_.pool.path);
    expect_error(ErrorCode::not_found, {sample_.pool.path}, [&] { (void)written(); });
}

// --- when the engine writes it --------------------------------------------------------------------------

/// Waits until `pool` has a manifest of the VM that says that name.
Task<> until_written(TestEngine& test, std::string pool, Uuid vm, std::string name) {
    const async::Deadline deadline = soon();
    while (async::Clock::now() < deadline) {
        const std::string path = pool + "/.volchain/" + vm.str() + ".json";
        const bool stale = !test->catalog().stale_manifests().empty();
        if (!stale && fs::exists(path) && read_document(path).at("vm").at("name") == name) co_return;
        co_await async::sleep_until(qmp::after_ms(5));
    }
    ADD_FAILURE() << "no manifest with name " << name;
}

Task<> engine_writes_manifests() {
    TestEngine test(co_await async::asio::this_coro::executor);
    const std::string pool = test.directory() / "pool";
    fs::create_directory(pool);
    co_await test->start();
    Sample sample(pool);
    Changes changes = sample.changes();
    changes.put(ManifestStale{sample.vm.id, true});
    co_await test->catalog().commit(std::move(changes), Durability::power);
    test->write_manifests();
    co_await until_written(test, pool, sample.vm.id, "web");

    // A pool that is away for a while gets its manifest when it is back.
    fs::rename(pool, pool + "-away");
    co_await test->inspect_pool(sample.pool.id, false);
    sample.vm.name = "mail";
    Changes renamed;
    renamed.put(sample.vm).put(ManifestStale{sample.vm.id, true});
    co_await test->catalog().commit(std::move(renamed), Durability::power);
    test->write_manifests();
    co_await async::sleep_until(qmp::after_ms(50));
    EXPECT_THAT(test->catalog().stale_manifests(), ElementsAre(sample.vm.id));
    fs::rename(pool + "-away", pool);
    co_await test->inspect_pool(sample.pool.id, false);
    co_await until_written(test, pool, sample.vm.id, "mail");
    co_await test->stop();
}
TEST(ManifestEngine, WritesItAndMakesUpForAPoolThatWasAway) {
    async::run(engine_writes_manifests());
}

}  // namespace
}  // namespace volchain::storage::manifest_test
