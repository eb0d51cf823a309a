// SPDX-License-Identifier: MIT
#include "daemon/objects.h"

#include "unit/storage/support.h"

namespace volchain::daemon::objects_test {
namespace {

using storage::expect_error;
using storage::ObjectKind;

TEST(ObjectValues, ResultsOfJobs) {
    const Uuid disk = Uuid::make();
    Json result;
    result["disk"] = storage::object_json({ObjectKind::disk, disk});
    result["switch-usec"] = 1234;
    result["quiesce"] = "no agent";
    result["unknown"] = Json::array({"a.qcow2", "b.qcow2"});
    result["nothing"] = Json::array();
    result["whole"] = true;
    const bus::Dict dict = result_dict(result);
    EXPECT_EQ(dict.size(), 6U);
    EXPECT_EQ(dict.at("disk").get<bus::ObjectPath>(), object_path(ObjectKind::disk, disk));
    EXPECT_EQ(dict.at("switch-usec").get<std::uint64_t>(), 1234U);
    EXPECT_EQ(dict.at("quiesce").get<std::string>(), "no agent");
    EXPECT_THAT(dict.at("unknown").get<std::vector<std::string>>().value(),
                testing::ElementsAre("a.qcow2", "b.qcow2"));
    EXPECT_EQ(dict.at("nothing").signature(), "as");
    EXPECT_EQ(dict.at("whole").get<bool>(), true);
    EXPECT_TRUE(result_dict(Json::object()).empty());
}

TEST(ObjectValues, ListsOfRecords) {
    const Uuid volume = Uuid::make();
    Json record;
    record["kind"] = "leak";
    record["repaired"] = false;
    record["volume"] = storage::object_json({ObjectKind::volume, volume});
    Json result;
    result["findings"] = storage::list_json(Json::array({record}));
    result["none"] = storage::list_json(Json::array());
    const bus::Dict dict = result_dict(result);
    EXPECT_EQ(dict.at("none").signature(), "aa{sv}");
    const auto findings = dict.at("findings").get<std::vector<bus::Dict>>();
    ASSERT_TRUE(findings && findings->size() == 1);
    EXPECT_EQ(findings->front().at("kind").get<std::string>(), "leak");
    EXPECT_EQ(findings->front().at("repaired").get<bool>(), false);
    EXPECT_EQ(findings->front().at("volume").get<bus::ObjectPath>(), object_path(ObjectKind::volume, volume));
}

TEST(ObjectValues, ErrorsOfJobs) {
    EXPECT_EQ(error_pair(std::nullopt), TextPair());
    EXPECT_EQ(error_pair(Error(ErrorCode::no_space, "full")),
              TextPair("org.volchain1.Error.NoSpace", "full"));
}

TEST(ObjectValues, Documents) {
    const std::string document("\0\xff<domain/>", 11);
    EXPECT_EQ(to_text(to_bytes(document)), document);
    EXPECT_TRUE(to_bytes("").empty());
}

bus::Options options_with(const std::string& name, const bus::Variant& value) {
    bus::Dict dict;
    dict.emplace(name, value);
    return bus::Options(std::move(dict));
}

TEST(ObjectOptions, Words) {
    bus::Options given = options_with("format", "raw");
    EXPECT_EQ(take_word<storage::VolumeFormat>(given, "format"), storage::VolumeFormat::raw);
    given.finish();
    EXPECT_EQ(take_word<storage::VolumeFormat>(given, "format"), std::nullopt);
    for (const std::string& wrong :
         {std::string(), std::string("RAW"), std::string("raw "), std::string("x\n")})
        expect_error(ErrorCode::invalid_argument, {"option 'format'", quote(wrong), "qcow2", "raw"}, [&] {
            bus::Options options = options_with("format", wrong);
            (void)take_word<storage::VolumeFormat>(options, "format");
        });
    expect_error(ErrorCode::invalid_argument, {"'format'", "'s'"}, [] {
        bus::Options options = options_with("format", std::uint64_t{1});
        (void)take_word<storage::VolumeFormat>(options, "format");
    });
}

TEST(ObjectOptions, Objects) {
    const Uuid id = Uuid::make();
    bus::Options one = options_with("backing", object_path(ObjectKind::volume, id));
    EXPECT_EQ(take_id(one, "backing", ObjectKind::volume), id);
    EXPECT_EQ(take_id(one, "backing", ObjectKind::volume), std::nullopt);
    bus::Options several = options_with("disks", object_paths(ObjectKind::disk, {id, Uuid::make()}));
    EXPECT_THAT(take_ids(several, "disks", ObjectKind::disk).value(), testing::Contains(id));
    expect_error(ErrorCode::invalid_argument, {"backing"}, [&] {
        bus::Options wrong = options_with("backing", object_path(ObjectKind::disk, id));
        (void)take_id(wrong, "backing", ObjectKind::volume);
    });
    expect_error(ErrorCode::invalid_argument, {"disks"}, [&] {
        bus::Options wrong = options_with("disks", std::vector<bus::ObjectPath>(1));
        (void)take_ids(wrong, "disks", ObjectKind::disk);
    });
}

}  // namespace
}  // namespace volchain::daemon::objects_test
