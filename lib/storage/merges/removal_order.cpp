// SPDX-License-Identifier: MIT
#include "storage/merges/removal_order.h"

namespace volchain::storage {
namespace {

Json work_json(const DiskWork& work) {
    Json entry;
    entry["disk"] = work.disk.str();
    entry["unwanted"] = Json::array();
    for (const Uuid& volume : work.unwanted) entry["unwanted"].push_back(volume.str());
    if (work.first) entry["first"] = work.first->json();
    if (work.upwards) entry["upwards"] = true;
    return entry;
}

DiskWork parse_work(const JsonReader& entry) {
    DiskWork work;
    work.disk = id_in(entry.at("disk"));
    for (const JsonReader& volume : entry.at("unwanted").elements()) work.unwanted.insert(id_in(volume));
    if (const auto first = entry.find("first")) work.first = MergeStep::parse(*first);
    work.upwards = entry.find("upwards").has_value();
    return work;
}

std::vector<ObjectId> parse_locks(const JsonReader& plan) {
    std::vector<ObjectId> locks;
    for (const JsonReader& object : plan.at("locks").elements()) {
        const auto kind = from_word<ObjectKind>(object.at("kind").string());
        locks.push_back({kind.value_or(ObjectKind::disk), id_in(object.at("id"))});
    }
    return locks;
}

/// The volumes that a step writes to or does away with.
std::set<Uuid> changed_by(const MergeStep& step) {
    std::set<Uuid> volumes(step.removed.begin(), step.removed.end());
    if (step.kind == MergeKind::commit) volumes.insert(step.lower);
    if (step.kind == MergeKind::stream) volumes.insert(step.upper);
    return volumes;
}

}  // namespace

Json RemovalOrder::json() const {
    Json plan;
    plan["disks"] = Json::array();
    for (const DiskWork& work : disks) plan["disks"].push_back(work_json(work));
    plan["snapshots"] = Json::array();
    for (const DoomedSnapshot& snapshot : snapshots)
        plan["snapshots"].push_back(
            {{"id", snapshot.id.str()}, {"before", word(snapshot.before)}, {"parts", snapshot.parts}});
    plan["direction"] = word(direction);
    plan["only-drop"] = only_drop;
    plan["speed"] = speed;
    plan["copied"] = copied;
    plan["result"] = result.str();
    plan["locks"] = Json::array();
    for (const ObjectId& object : locks) plan["locks"].push_back(object_json(object));
    if (step) plan["step"] = step->json();
    plan["files"] = files.plan();
    return plan;
}

RemovalOrder RemovalOrder::parse(const Json& document) {
    const JsonReader plan(document, "plan of a merge", ErrorCode::internal);
    RemovalOrder order;
    for (const JsonReader& entry : plan.at("disks").elements()) order.disks.push_back(parse_work(entry));
    for (const JsonReader& entry : plan.at("snapshots").elements()) {
        const auto before = from_word<SnapshotStatus>(entry.at("before").string());
        order.snapshots.push_back(
            {id_in(entry.at("id")), before.value_or(SnapshotStatus::failed), entry.at("parts").u64()});
    }
    order.direction = from_word<Direction>(plan.at("direction").string()).value_or(Direction::automatic);
    order.only_drop = plan.at("only-drop").boolean();
    order.speed = plan.at("speed").u64();
    order.copied = plan.at("copied").u64();
    order.result = id_in(plan.at("result"));
    order.locks = parse_locks(plan);
    if (const auto step = plan.find("step")) order.step = MergeStep::parse(*step);
    order.files = DoomedFiles::from_plan(plan.at("files"));
    return order;
}

std::set<Uuid> changed_by(const RemovalOrder& order) {
    std::set<Uuid> volumes;
    for (const DiskWork& work : order.disks) {
        volumes.insert(work.unwanted.begin(), work.unwanted.end());
        if (work.first) volumes.merge(changed_by(*work.first));
    }
    if (order.step) volumes.merge(changed_by(*order.step));
    return volumes;
}

}  // namespace volchain::storage
