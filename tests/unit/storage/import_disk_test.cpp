// SPDX-License-Identifier: MIT
//
// What an import does with the chain below an image. (What is refused of a single image: image_test.cpp.)
#include "storage/disks/import_disk.h"

#include <filesystem>

#include "storage/disks/create_overlay.h"
#include "storage/pools/pools.h"
#include "support.h"

namespace volchain::storage::import_disk_test {
namespace {

namespace fs = std::filesystem;

/// An engine with a pool, and a directory that is none.
class Site {
  public:
    explicit Site(const async::Executor& executor) : engine(executor) {
        for (const char* name : {"pool", "outside"}) fs::create_directory(engine.directory() / name);
    }
    [[nodiscard]] std::string path(const std::string& name) const {
        return engine.directory() / ("pool/" + name);
    }
    [[nodiscard]] std::string outside(const std::string& name) const {
        return engine.directory() / ("outside/" + name);
    }
    void create(const std::string& path, const std::string& backing = "",
                const std::string& format = "qcow2") const {
        if (backing.empty())
            qcow2::create(path, "1M");
        else
            qcow2::create(path, "1M", "", {"-u", "-b", backing, "-F", format});
    }
    Task<Uuid> start(std::string image, std::optional<VolumeFormat> format = std::nullopt) {
        ImportRequest request(pool, std::move(image));
        request.format = format;
        co_return co_await import_disk(*engine, std::move(request));
    }
    Task<DiskRecord> import(std::string image) {
        const Uuid job = co_await start(std::move(image));
        const Json result = co_await engine.finish(job);
        const Uuid id = Uuid::parse(result.at("disk").at("id").get<std::string>()).value();
        co_return engine->catalog().disk(id);
    }
    /// The test fails unless the import does, and leaves nothing.
    Task<> refuse(std::string image, ErrorCode code, std::string part,
                  std::optional<VolumeFormat> format = std::nullopt) {
        const std::size_t disks = engine->catalog().disks().size();
        const std::size_t volumes = engine->catalog().volumes().size();
        const Uuid job = co_await start(image, format);
        const Error error = co_await engine.failure(job);
        EXPECT_EQ(name(error.code()), name(code)) << image << ": " << error.what();
        EXPECT_THAT(error.what(), HasSubstr(part)) << image;
        EXPECT_EQ(engine->catalog().disks().size(), disks);
        EXPECT_EQ(engine->catalog().volumes().size(), volumes);
    }

    TestEngine engine;
    Uuid pool;
};

using Words = std::vector<std::string>;
using Test = Task<> (*)(Site&);
Task<> with_site(Test test) {
    Site site(co_await async::asio::this_coro::executor);
    co_await site.engine->start();
    site.pool = co_await create_pool(*site.engine, "fast", site.path(""), false);
    std::exception_ptr failure;
    co_await async::keep_failure(test(site), failure);
    co_await site.engine->stop();
    if (failure) std::rethrow_exception(failure);
}

Task<> whole_chain(Site& site) {
    fs::create_directory(site.path("deep"));
    site.create(site.path("deep/base.qcow2"));
    site.create(site.path("middle.qcow2"), "deep/base.qcow2");
    site.create(site.path("top.qcow2"), site.path("middle.qcow2"));
    const DiskRecord disk = co_await site.import("top.qcow2");
    const Catalog& catalog = site.engine->catalog();
    EXPECT_EQ(disk.name, "top");
    EXPECT_TRUE(disk.vm.nil());
    Words files;
    for (const Uuid& id : catalog.chain(disk.active)) files.push_back(catalog.volume(id).file);
    EXPECT_THAT(files, ElementsAre("top.qcow2", "middle.qcow2", "deep/base.qcow2"));
    co_await site.refuse("top.qcow2", ErrorCode::already_exists, "is a volume of disk 'top'");
    co_await site.refuse("middle.qcow2", ErrorCode::already_exists, "is a volume of disk 'top'");
}
TEST(ImportDisk, TakesTheWholeChain) {
    async::run(with_site(whole_chain));
}

Task<> outside_the_pools(Site& site) {
    site.create(site.outside("base.qcow2"));
    site.create(site.path("top"), site.outside("base.qcow2"));
    co_await site.refuse("top", ErrorCode::unsafe_image, "is in no pool");
    site.create(site.path("relative"), "../outside/base.qcow2");
    co_await site.refuse("relative", ErrorCode::unsafe_image, "is in no pool");
    site.create(site.path("secret"), "/etc/passwd", "raw");
    co_await site.refuse("secret", ErrorCode::unsafe_image, "'/etc/passwd'");
    co_await site.refuse(site.outside("base.qcow2"), ErrorCode::invalid_argument,
                         "not in the pool's directory");
    co_await site.refuse("../outside/base.qcow2", ErrorCode::invalid_argument, "'..'");
    co_await site.refuse("", ErrorCode::invalid_argument, "names no file");
    // In a pool of its own it is wanted.
    (void)co_await create_pool(*site.engine, "other", site.outside(""), false);
    const DiskRecord disk = co_await site.import("top");
    EXPECT_EQ(site.engine->catalog().chain(disk.active).size(), 2u);
}
TEST(ImportDisk, RefusesABackingFileOutsideThePools) {
    async::run(with_site(outside_the_pools));
}

Task<> loops(Site& site) {
    site.create(site.path("self"), "self");
    co_await site.refuse("self", ErrorCode::broken_chain, "comes back to itself");
    site.create(site.path("a"), "b");
    site.create(site.path("b"), "c");
    site.create(site.path("c"), "./b");
    co_await site.refuse("a", ErrorCode::broken_chain, "comes back to itself");
}
TEST(ImportDisk, RefusesAChainThatComesBackToItself) {
    async::run(with_site(loops));
}

Task<> hostile_below(Site& site) {
    // What is forbidden of an image is forbidden of each layer below it.
    site.create(site.path("raw-that-is-none"), "/etc/passwd", "raw");
    site.create(site.path("over-raw"), "raw-that-is-none", "raw");
    co_await site.refuse("over-raw", ErrorCode::unsafe_image, "declared raw");
    site.create(site.path("net"), "nbd://host/x", "raw");
    site.create(site.path("over-net"), "net");
    co_await site.refuse("over-net", ErrorCode::unsafe_image, "not a plain path");
    qcow2::create(site.path("data"), "1M", "data_file=" + site.path("data.raw"));
    site.create(site.path("over-data"), "data");
    co_await site.refuse("over-data", ErrorCode::unsafe_image, "data in another file");
    qcow2::store(site.path("blank"), qcow2::Bytes(4096));
    site.create(site.path("over-blank"), "blank");
    co_await site.refuse("over-blank", ErrorCode::corrupt_image, "declared qcow2");
    site.create(site.path("over-nothing"), "nothing");
    co_await site.refuse("over-nothing", ErrorCode::broken_chain, "No such file");
    fs::create_symlink("blank", site.path("link"));
    site.create(site.path("over-link"), "link", "raw");
    co_await site.refuse("over-link", ErrorCode::unsafe_image, "symbolic link");
    co_await site.refuse("link", ErrorCode::unsafe_image, "link", VolumeFormat::raw);
    fs::create_directory_symlink(site.outside(""), site.path("directory"));
    site.create(site.outside("x"));
    co_await site.refuse("directory/x", ErrorCode::invalid_argument, "not in the pool's directory");
    co_await site.refuse("/dev/zero", ErrorCode::invalid_argument, "not in the pool's directory",
                         VolumeFormat::raw);
}
TEST(ImportDisk, RefusesWhatIsForbiddenAnywhereInTheChain) {
    async::run(with_site(hostile_below));
}

Task<> known_layers(Site& site) {
    site.create(site.path("base"));
    const DiskRecord base = co_await site.import("base");
    site.create(site.path("top"), "base");
    co_await site.refuse("top", ErrorCode::in_use, "active volume of disk 'base'");
    // Once its disk has gone on to an overlay, it is a base like any other.
    const Uuid job = co_await create_overlay(*site.engine, OverlayRequest(base.id));
    (void)co_await site.engine.finish(job);
    site.create(site.path("lie"), "base", "raw");
    co_await site.refuse("lie", ErrorCode::unsafe_image, "is qcow2");
    const DiskRecord top = co_await site.import("top");
    const Catalog& catalog = site.engine->catalog();
    EXPECT_EQ(catalog.volumes_of_disk(top.id).size(), 1u) << "the layer that is known stays where it is";
    EXPECT_THAT(catalog.chain(top.active), ElementsAre(top.active, base.active));
    EXPECT_EQ(catalog.children(base.active).size(), 2u);
}
TEST(ImportDisk, StandsOnLayersThatAreKnown) {
    async::run(with_site(known_layers));
}

Task<> at_the_same_time(Site& site) {
    site.create(site.path("base"));
    site.create(site.path("top"), "base");
    std::vector<Uuid> jobs;
    for (int count = 0; count < 4; ++count) jobs.push_back(co_await site.start("top"));
    int done = 0;
    for (const Uuid& id : jobs) {
        if (const JobPtr job = site.engine->jobs().find(id)) co_await job->wait(soon());
        const JobRecord& record = site.engine->catalog().job(id);
        done += record.state == JobState::succeeded ? 1 : 0;
        if (record.error) {
            EXPECT_EQ(name(record.error->code()), "AlreadyExists") << record.error->what();
        }
    }
    EXPECT_EQ(done, 1);
    const Catalog& catalog = site.engine->catalog();
    EXPECT_EQ(catalog.disks().size(), 1u);
    EXPECT_EQ(catalog.children(catalog.find_volume(site.path("base"))->id).size(), 1u);
}
TEST(ImportDisk, HappensOnceHoweverOftenItIsAskedForAtATime) {
    async::run(with_site(at_the_same_time));
}

Task<> names(Site& site) {
    site.create(site.path("web.server.qcow2"));
    site.create(site.path("other"));
    ImportRequest request(site.pool, "other");
    request.name = "web.server";
    const Uuid job = co_await import_disk(*site.engine, std::move(request));
    (void)co_await site.engine.finish(job);
    const DiskRecord disk = co_await site.import("web.server.qcow2");
    EXPECT_EQ(disk.name, "web.server-2");
    ImportRequest taken(site.pool, "none");
    taken.name = "web.server";
    co_await expect_failure(dropping(import_disk(*site.engine, std::move(taken))), ErrorCode::already_exists,
                            "there is a disk 'web.server'");
    ImportRequest none(Uuid::make(), "none");
    co_await expect_failure(dropping(import_disk(*site.engine, std::move(none))), ErrorCode::not_found,
                            "no pool");
}
TEST(ImportDisk, NamesTheDiskAfterItsFile) {
    async::run(with_site(names));
}

}  // namespace
}  // namespace volchain::storage::import_disk_test
