// SPDX-License-Identifier: MIT
//
// VmTree: the snapshots of a VM as the tree that they are, and under each one the volumes that hold its
// content, disk by disk; "(now)" is what the VM works on; while it shows a preview that is "(preview)", and "(before)" is
// what it goes back to when that is undone. A volume that only connects two of these (a layer
// that no snapshot names) stands below the one above it; volumes that nothing of this leads to stand at the
// end. The tree grows to the right only where it branches.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "client/objects.h"
#include "client/table.h"

namespace volchain::client {

class VmTree {
  public:
    /// Throws NotFound where there is no such VM. The objects must outlive the tree.
    VmTree(const Objects& objects, const bus::ObjectPath& vm);

    [[nodiscard]] std::string text(const TextStyle& style) const;
    [[nodiscard]] OrderedJson json() const;

  private:
    /// One volume, of one disk; `layer`: it is only what the one before it stands on.
    struct Volume {
        const Object* disk = nullptr;
        const Object* volume = nullptr;
        bool layer = false;
        std::string excluded;  ///< why there is none
    };
    struct Node {
        const Object* snapshot = nullptr;
        std::string type;  ///< snapshot, now, former, or other: what is left over
        std::string label;
        std::vector<Volume> volumes;
        std::vector<Node> children;
    };
    class Drawing;

    void add_children(std::vector<Node>& to, const bus::ObjectPath& parent);
    [[nodiscard]] Node snapshot_node(const Object& snapshot);
    void add_states(std::vector<Node>& to, const bus::ObjectPath& place);
    [[nodiscard]] Node state_node(const std::string& type, const std::string& label,
                                  const std::string& volume);
    [[nodiscard]] Node rest_node() const;
    void add_volume(Node& node, const bus::ObjectPath& disk, const bus::ObjectPath& volume);
    [[nodiscard]] OrderedJson json_of(const Node& node) const;
    [[nodiscard]] OrderedJson json_of(const Volume& volume) const;

    const Objects& objects_;
    const Object* vm_;
    std::vector<const Object*> snapshots_;    // the oldest first
    std::vector<const Object*> disks_;        // by name
    std::set<bus::ObjectPath> of_snapshots_;  // volumes: each is shown at its snapshot
    std::set<bus::ObjectPath> shown_;
    std::set<bus::ObjectPath> placed_;
    std::vector<Node> roots_;
};

}  // namespace volchain::client
