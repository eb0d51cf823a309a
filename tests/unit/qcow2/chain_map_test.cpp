// SPDX-License-Identifier: MIT
//
// What is seen through made-up layers, and through real ones, held to what "qemu-img map" says of the whole chain.
#include "qcow2/chain_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>

#include "base/unique_fd.h"
#include "made_up_map.h"
#include "qcow2/raw_layer_map.h"
#include "support.h"

namespace volchain::qcow2::chain_map_test {
namespace {

using namespace made_up;

constexpr std::uint64_t kib = 1U << 10;
constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t gib = 1U << 30;

using Extents = std::vector<ChainExtent>;

Extents all_through(ChainMap& map) {
    Extents extents;
    for (std::uint64_t offset = 0; offset < map.virtual_size();) {
        const ChainExtent extent = map.at(offset, map.virtual_size());
        EXPECT_EQ(extent.offset, offset);
        EXPECT_GT(extent.length, 0U);
        EXPECT_LE(extent.length, gib);
        append(extents, extent);
        offset += extent.length;
    }
    return extents;
}

std::string described(const Extents& extents) {
    std::string text;
    for (const ChainExtent& extent : extents)
        text += fmt::format("{} + {}: {}\n", extent.offset, extent.length,
                            std::array{"data", "zero", "hole"}.at(static_cast<std::size_t>(extent.kind)));
    return text;
}

ChainMap over(std::vector<MadeUpMap*> maps) {
    std::vector<NamedLayer> layers;
    for (MadeUpMap* const map : maps) layers.push_back({map, fmt::format("'layer {}'", layers.size())});
    return ChainMap(std::move(layers));
}

TEST(ChainMap, TheTopmostThatSaysSomethingCounts) {
    MadeUpMap top(kib, {absent(2 * kib), data(kib), zero(kib), absent(6 * kib)});
    MadeUpMap middle(kib, {data(kib), absent(5 * kib), zero(2 * kib), absent(2 * kib)});
    MadeUpMap base(kib, {zero(kib), data(6 * kib), absent(3 * kib)});
    ChainMap map = over({&top, &middle, &base});
    EXPECT_EQ(map.virtual_size(), 10 * kib);
    EXPECT_EQ(described(all_through(map)), described({{0, 3 * kib, LayerKind::data},
                                                      {3 * kib, kib, LayerKind::zero},
                                                      {4 * kib, 2 * kib, LayerKind::data},
                                                      {6 * kib, 2 * kib, LayerKind::zero},
                                                      {8 * kib, 2 * kib, LayerKind::absent}}));
}

TEST(ChainMap, BehindItsEndALayerHidesWhatIsBelow) {
    MadeUpMap top(kib, {absent(8 * kib)});
    MadeUpMap smaller(kib, {data(kib), absent(kib)});
    MadeUpMap base(kib, {data(6 * kib)});
    ChainMap map = over({&top, &smaller, &base});
    EXPECT_EQ(described(all_through(map)),
              described({{0, 2 * kib, LayerKind::data}, {2 * kib, 6 * kib, LayerKind::zero}}));
    // Also of the whole, for who looks further than its end.
    MadeUpMap short_one(kib, {data(kib)});
    ChainMap alone = over({&short_one});
    EXPECT_EQ(alone.at(kib, 3 * kib), (ChainExtent{kib, 2 * kib, LayerKind::zero}));
}

TEST(ChainMap, OfNoLayersEverythingIsAbsent) {
    ChainMap map({});
    EXPECT_EQ(map.virtual_size(), 0U);
    EXPECT_EQ(map.at(5 * kib, 7 * kib), (ChainExtent{5 * kib, 2 * kib, LayerKind::absent}));
}

TEST(ChainMap, FromAnywhereUpToAnywhere) {
    MadeUpMap top(kib, {absent(4 * kib), data(4 * kib)});
    MadeUpMap base(kib, {data(kib), absent(3 * kib), zero(4 * kib)});
    ChainMap map = over({&top, &base});
    EXPECT_EQ(map.at(512, 700), (ChainExtent{512, 188, LayerKind::data}));
    EXPECT_EQ(map.at(kib, 8 * kib), (ChainExtent{kib, 3 * kib, LayerKind::absent}));
    EXPECT_EQ(map.at(6 * kib, 7 * kib), (ChainExtent{6 * kib, kib, LayerKind::data}));
}

TEST(ChainMap, LooksAtALimitedPartAtOnce) {
    MadeUpMap top(kib, {absent(5 * gib)});
    ChainMap map = over({&top});
    EXPECT_EQ(map.at(kib, 5 * gib), (ChainExtent{kib, gib, LayerKind::absent}));
    EXPECT_EQ(described(all_through(map)), described({{0, 5 * gib, LayerKind::absent}}));
}

/// Many small parts below do not make it look at the large ones above again and again, and what is hidden is not looked at.
TEST(ChainMap, LooksAtEverythingOnce) {
    MadeUpMap top(kib, {data(100 * kib), absent(gib)});
    std::vector<Part> parts;
    for (int i = 0; i < 1000; ++i) {
        parts.push_back(data(kib));
        parts.push_back(zero(kib));
    }
    MadeUpMap base(kib, parts);
    ChainMap map = over({&top, &base});
    (void)all_through(map);
    EXPECT_LE(top.looks(), 10U);
    EXPECT_LE(base.looks(), 2U * 1900U + 10U);
    EXPECT_GE(base.looks(), 1900U);
}

TEST(ChainMap, ErrorsNameTheLayer) {
    const TemporaryDirectory directory;
    create(directory / "image", "1M");
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 64k", directory / "image"});
    Bytes bytes = load(directory / "image");
    const Header header = header_of(bytes);
    const auto table =
        static_cast<std::size_t>(get<std::uint64_t>(bytes, header.l1_table.offset) & 0xffffffff);
    put(bytes, table, std::uint64_t{1} << 50 | 512);  // no boundary of a cluster
    const MemorySource source(bytes);
    Qcow2LayerMap layer(source, header);
    std::vector<NamedLayer> layers;
    layers.push_back({&layer, "'/pool/base'"});
    ChainMap map(std::move(layers));
    const auto error = error_of([&] { (void)map.at(0, mib); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::corrupt_image);
    EXPECT_NE(std::string_view(error->what()).find("'/pool/base'"), std::string_view::npos) << error->what();
}

// --- real chains -------------------------------------------------------------------------------------------

/// An image of a chain, open.
struct OpenImage {
    explicit OpenImage(const std::string& path, bool raw)
        : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)), source(fd.get()) {
        if (raw)
            map = std::make_unique<RawLayerMap>(fd.get());
        else
            map = std::make_unique<Qcow2LayerMap>(source, read_header(source));
    }
    UniqueFd fd;
    FileSource source;
    std::unique_ptr<LayerMap> map;
};

Extents extents_through(const std::vector<std::string>& paths) {
    std::vector<std::unique_ptr<OpenImage>> images;
    std::vector<NamedLayer> layers;
    for (const std::string& path : paths) {
        images.push_back(std::make_unique<OpenImage>(path, path.ends_with(".raw")));
        layers.push_back({images.back()->map.get(), path});
    }
    ChainMap map(std::move(layers));
    return all_through(map);
}

Extents map_of_qemu(const std::string& top) {
    Extents extents;
    for (const Json& entry :
         Json::parse(run_well({"qemu-img", "map", "--output=json", "-f", "qcow2", top}))) {
        ChainExtent extent{entry.at("start").get<std::uint64_t>(), entry.at("length").get<std::uint64_t>(),
                           LayerKind::absent};
        if (entry.at("present").get<bool>())
            extent.kind = entry.at("data").get<bool>() ? LayerKind::data : LayerKind::zero;
        append(extents, extent);
    }
    return extents;
}

void scribble(const std::string& path, std::uint64_t size, unsigned seed) {
    std::mt19937_64 random(seed);
    const bool raw = path.ends_with(".raw");
    Words words{"qemu-io", "-t", "unsafe", "-f", raw ? "raw" : "qcow2"};
    for (int i = 0; i < 12; ++i) {
        const std::string verb =
            std::array{"write", "write", "write -z", "write -z -u", "discard"}.at(random() % 5);
        const std::uint64_t unit =
            raw ? 65536 : std::array{std::uint64_t{65536}, std::uint64_t{4096}}.at(random() % 2);
        const std::uint64_t offset = random() % (size / unit) * unit;
        const std::uint64_t length = std::min(size - offset, (1 + random() % 20) * unit);
        words.insert(words.end(), {"-c", fmt::format("{} {} {}", verb, offset, length)});
    }
    words.push_back(path);
    run_well(words);
}

struct Layer {
    const char* options;
    std::uint64_t size;
};

/// Two kinds only: what has to be read, and what reads as zeroes.
Extents without_holes(const Extents& extents) {
    Extents result;
    for (ChainExtent extent : extents) {
        if (extent.kind == LayerKind::absent) extent.kind = LayerKind::zero;
        append(result, extent);
    }
    return result;
}

void expect_as_qemu_maps(const TemporaryDirectory& directory, bool raw_base, const std::vector<Layer>& layers,
                         unsigned seed) {
    SCOPED_TRACE(fmt::format("{} base, seed {}", raw_base ? "raw" : "qcow2", seed));
    std::vector<std::string> paths;
    for (const Layer& layer : layers) {
        const bool raw = raw_base && paths.empty();
        const std::string name = fmt::format("{}.{}", paths.size(), raw ? "raw" : "qcow2");
        const std::string path = directory / name;
        if (raw)
            run_well({"qemu-img", "create", "-q", "-f", "raw", path, std::to_string(layer.size)});
        else if (paths.empty())
            create(path, std::to_string(layer.size), layer.options);
        else
            create(path, std::to_string(layer.size), layer.options,
                   {"-b", paths.front(), "-F", paths.front().ends_with(".raw") ? "raw" : "qcow2"});
        scribble(path, layer.size, seed * 10 + static_cast<unsigned>(paths.size()));
        paths.insert(paths.begin(), path);
    }
    const Extents ours = extents_through(paths);
    const Extents theirs = map_of_qemu(paths.front());
    EXPECT_EQ(described(without_holes(ours)), described(without_holes(theirs)));
    // "qemu-img map" calls a hole what is behind the end of a layer, though that hides what is below.
    if (layers.front().size == layers.back().size && layers.front().size == layers[1].size) {
        EXPECT_EQ(described(ours), described(theirs));
    }
}

TEST(ChainMap, AsQemuSaysOfRealChains) {
    for (const unsigned seed : {1U, 2U, 3U})
        for (const bool raw_base : {false, true}) {
            const TemporaryDirectory directory;
            expect_as_qemu_maps(
                directory, raw_base,
                {{"", 8 * mib}, {"", 8 * mib}, {"cluster_size=4096", 8 * mib}, {"extended_l2=on", 8 * mib}},
                seed);
        }
}

TEST(ChainMap, AsQemuSaysOfChainsOfDifferentSizes) {
    for (const unsigned seed : {4U, 5U}) {
        const TemporaryDirectory growing;
        expect_as_qemu_maps(growing, seed == 4, {{"", 4 * mib}, {"", 8 * mib}, {"", 12 * mib}}, seed);
        const TemporaryDirectory shrinking;
        expect_as_qemu_maps(shrinking, seed == 4, {{"", 12 * mib}, {"", 4 * mib}, {"", 8 * mib}}, seed);
    }
}

}  // namespace
}  // namespace volchain::qcow2::chain_map_test
