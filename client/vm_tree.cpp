// SPDX-License-Identifier: MIT
#include "client/vm_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "base/text.h"
#include "client/properties.h"

namespace volchain::client {
namespace {

using PathPair = std::tuple<bus::ObjectPath, bus::ObjectPath>;
using PathText = std::tuple<bus::ObjectPath, std::string>;

constexpr const char* now_label = "(now)";
constexpr const char* preview_label = "(preview)";
constexpr const char* former_label = "(before)";
constexpr const char* rest_label = "(other volumes)";

std::string file_name(const Object& volume) {
    const std::string path = volume.text("Path");
    return path.substr(path.rfind('/') + 1);
}

/// What lines of a tree are made of.
struct Art {
    explicit Art(bool utf8)
        : branch(utf8 ? "├─ " : "|- "), last(utf8 ? "└─ " : "`- "), beside(utf8 ? "│  " : "|  ") {}

    std::string branch;
    std::string last;
    std::string beside;
    std::string space = "   ";
};

}  // namespace

// --- what there is -------------------------------------------------------------------------------

VmTree::VmTree(const Objects& objects, const bus::ObjectPath& vm) : objects_(objects), vm_(objects.find(vm)) {
    if (vm_ == nullptr) throw Error(ErrorCode::not_found, "the VM {} has just gone", vm.str());
    for (const bus::ObjectPath& path : vm_->references("Snapshots"))
        if (const Object* snapshot = objects.find(path)) snapshots_.push_back(snapshot);
    std::sort(snapshots_.begin(), snapshots_.end(), [](const Object* a, const Object* b) {
        return std::tuple(a->number("CreatedUsec"), a->name()) <
               std::tuple(b->number("CreatedUsec"), b->name());
    });
    for (const Object* snapshot : snapshots_)
        for (const auto& [disk, volume] : snapshot->value<std::vector<PathPair>>("Disks"))
            of_snapshots_.insert(volume);
    for (const Object* disk : objects.of_kind("disk"))
        if (disk->reference("VM") == vm) disks_.push_back(disk);
    add_children(roots_, bus::ObjectPath());
    // A parent that is unknown, or a circle of parents, must not hide a snapshot.
    for (const Object* snapshot : snapshots_)
        if (!placed_.contains(snapshot->path)) roots_.push_back(snapshot_node(*snapshot));
    for (const char* property : {"CurrentSnapshot", "PreviewOf"}) {
        const bus::ObjectPath place = vm_->reference(property);
        if (!placed_.contains(place)) add_states(roots_, place);
        placed_.insert(place);
    }
    Node rest = rest_node();
    if (!rest.volumes.empty()) roots_.push_back(std::move(rest));
}

void VmTree::add_children(std::vector<Node>& to, const bus::ObjectPath& parent) {
    for (const Object* snapshot : snapshots_)
        if (snapshot->reference("Parent") == parent && !placed_.contains(snapshot->path))
            to.push_back(snapshot_node(*snapshot));
}

VmTree::Node VmTree::snapshot_node(const Object& snapshot) {
    placed_.insert(snapshot.path);
    Node node;
    node.type = "snapshot";
    node.snapshot = &snapshot;
    node.label = snapshot.name();
    std::vector<PathPair> disks = snapshot.value<std::vector<PathPair>>("Disks");
    std::stable_sort(disks.begin(), disks.end(), [this](const PathPair& a, const PathPair& b) {
        return objects_.name(std::get<0>(a)) < objects_.name(std::get<0>(b));
    });
    for (const auto& [disk, volume] : disks) add_volume(node, disk, volume);
    for (const auto& [disk, why] : snapshot.value<std::vector<PathText>>("Excluded"))
        node.volumes.push_back({objects_.find(disk), nullptr, false, why});
    add_children(node.children, snapshot.path);
    add_states(node.children, snapshot.path);
    return node;
}

/// What the VM works on, and what it does again when a preview is undone, where they stand on this snapshot.
void VmTree::add_states(std::vector<Node>& to, const bus::ObjectPath& place) {
    const bus::ObjectPath current = vm_->reference("CurrentSnapshot");
    const bus::ObjectPath preview = vm_->reference("PreviewOf");
    if (preview.none()) {
        if (current == place) to.push_back(state_node("now", now_label, "Active"));
        return;
    }
    if (current == place) to.push_back(state_node("former", former_label, "Former"));
    if (preview == place) to.push_back(state_node("now", preview_label, "Active"));
}

VmTree::Node VmTree::state_node(const std::string& type, const std::string& label,
                                const std::string& volume) {
    Node node;
    node.type = type;
    node.label = label;
    for (const Object* disk : disks_) add_volume(node, disk->path, disk->reference(volume));
    return node;
}

/// The volume, and below it what nobody else has shown yet.
void VmTree::add_volume(Node& node, const bus::ObjectPath& disk, const bus::ObjectPath& volume) {
    bool layer = false;
    for (const Object* next = objects_.find(volume); next != nullptr;
         next = objects_.find(next->reference("Backing"))) {
        if (layer && of_snapshots_.contains(next->path)) return;
        const bool is_new = shown_.insert(next->path).second;
        if (layer && !is_new) return;
        node.volumes.push_back({objects_.find(disk), next, layer, ""});
        layer = true;
    }
}

VmTree::Node VmTree::rest_node() const {
    Node node;
    node.type = "other";
    node.label = rest_label;
    for (const Object* disk : disks_)
        for (const bus::ObjectPath& volume : disk->references("Volumes"))
            if (const Object* found = objects_.find(volume); found != nullptr && !shown_.contains(volume))
                node.volumes.push_back({disk, found, false, ""});
    return node;
}

// --- as text -------------------------------------------------------------------------------------

class VmTree::Drawing {
  public:
    Drawing(const VmTree& tree, const TextStyle& style) : tree_(tree), art_(style.utf8) {}

    Table draw() {
        const Object& vm = *tree_.vm_;
        const std::string about = vm.text("AgentSocket").empty() ? "" : "agent " + vm.text("AgentState");
        add("", Cell::text(vm.name()), Cell::state(vm.text("State")), about);
        draw_nodes(tree_.roots_, "");
        return std::move(table_);
    }

  private:
    /// Nodes that branch off from one place.
    void draw_nodes(const std::vector<Node>& nodes, const std::string& before) {
        for (const Node& node : nodes) {
            const bool last = &node == &nodes.back();
            draw_node(node, before + (last ? art_.last : art_.branch));
            draw_below(node, before + (last ? art_.space : art_.beside));
        }
    }

    /// An only child stands under its parent, not to the right of it: most histories are long and straight.
    void draw_below(const Node& node, const std::string& before) {
        draw_volumes(node, before + (node.children.empty() ? art_.space : art_.beside));
        if (node.children.size() != 1) return draw_nodes(node.children, before);
        draw_node(node.children.front(), before);
        draw_below(node.children.front(), before);
    }

    void draw_node(const Node& node, const std::string& art) {
        if (node.snapshot == nullptr) return add(art, Cell::text(node.label), Cell::blank(), "");
        std::vector<std::string> about{Cell::time(node.snapshot->number("CreatedUsec")).brief(),
                                       node.snapshot->text("Consistency")};
        if (tree_.vm_->reference("CurrentSnapshot") == node.snapshot->path) about.emplace_back("current");
        add(art, Cell::text(node.label), Cell::state(node.snapshot->text("Status")), joined(about, ", "));
    }

    void draw_volumes(const Node& node, const std::string& art) {
        for (const Volume& one : node.volumes) {
            const std::string disk = one.disk == nullptr ? "-" : one.disk->name();
            if (one.volume == nullptr) {
                add(art, Cell::text(disk), Cell::blank(), "excluded: " + one.excluded);
                continue;
            }
            table_.add(
                {one.layer ? Cell::blank() : Cell::text(disk), Cell::text(file_name(*one.volume)),
                 Cell::size(one.volume->number("SizeBytes")),
                 Cell::size(one.volume->number("AllocatedBytes")), Cell::state(one.volume->text("State")),
                 one.volume->flag("Active") ? Cell::text("active") : Cell::blank()},
                art);
        }
    }

    /// A line without a volume.
    void add(const std::string& art, Cell name, Cell state, const std::string& about) {
        table_.add({std::move(name), Cell::blank(), Cell::blank(), Cell::blank(), std::move(state),
                    about.empty() ? Cell::blank() : Cell::text(about)},
                   art);
    }

    const VmTree& tree_;
    Art art_;
    // Without a noun: lines of a tree are not counted.
    Table table_{"", {{"Snapshot"}, {"Volume"}, {"SizeBytes"}, {"AllocatedBytes"}, {"State"}, {"About"}}};
};

std::string VmTree::text(const TextStyle& style) const {
    return Drawing(*this, style).draw().text(style);
}

// --- as JSON -------------------------------------------------------------------------------------

OrderedJson VmTree::json() const {
    const NameOf name_of = names_in(objects_);
    OrderedJson all = Cell::object("vm", vm_->text("Id"), vm_->name()).json();
    for (const char* property : {"State", "AgentState", "CurrentSnapshot", "PreviewOf"})
        if (vm_->properties.contains(property))
            all[key_of(property)] = cell_of(property, vm_->properties.at(property), name_of).json();
    all["tree"] = OrderedJson::array();
    for (const Node& node : roots_) all["tree"].push_back(json_of(node));
    return all;
}

OrderedJson VmTree::json_of(const Node& node) const {
    const NameOf name_of = names_in(objects_);
    OrderedJson all;
    all["type"] = node.type;
    if (node.snapshot != nullptr)
        for (const char* property : {"Id", "Name", "CreatedUsec", "Consistency", "Status", "Current"})
            if (node.snapshot->properties.contains(property))
                all[key_of(property)] =
                    cell_of(property, node.snapshot->properties.at(property), name_of).json();
    all["volumes"] = OrderedJson::array();
    for (const Volume& volume : node.volumes) all["volumes"].push_back(json_of(volume));
    all["children"] = OrderedJson::array();
    for (const Node& child : node.children) all["children"].push_back(json_of(child));
    return all;
}

OrderedJson VmTree::json_of(const Volume& one) const {
    const NameOf name_of = names_in(objects_);
    OrderedJson all;
    all["disk"] = one.disk == nullptr ? OrderedJson()
                                      : Cell::object("disk", one.disk->text("Id"), one.disk->name()).json();
    if (one.volume == nullptr) {
        all["excluded"] = one.excluded;
        return all;
    }
    for (const char* property : {"Id", "Path", "SizeBytes", "AllocatedBytes", "State", "Active"})
        if (one.volume->properties.contains(property))
            all[key_of(property)] = cell_of(property, one.volume->properties.at(property), name_of).json();
    all["layer"] = one.layer;
    return all;
}

}  // namespace volchain::client
