// SPDX-License-Identifier: MIT
#include "qcow2/layer_cost.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "qcow2/limits.h"

namespace volchain::qcow2 {
namespace {

std::uint64_t end_of(const LayerExtent& extent) {
    return extent.offset + extent.length;
}

struct ClusterRun {
    std::uint64_t end = 0;  // the first cluster that is not in it
    bool in_place = false;  // all of each cluster
};

/// The clusters of a map, front to back. Those behind the end of the disk are not in place.
class ClusterRuns {
  public:
    explicit ClusterRuns(LayerMap& map) : map_(&map), extent_(map.next()) {}

    /// The run that holds `cluster`, which is not before the one of the last call.
    const ClusterRun& at(std::uint64_t cluster) {
        while (run_.end <= cluster) run_ = next();
        return run_;
    }

  private:
    /// All clusters that end in the current extent, or the one cluster that it shares with those behind it.
    ClusterRun next() {
        if (!extent_) return {std::numeric_limits<std::uint64_t>::max(), false};
        const std::uint64_t size = map_->cluster_size();
        ClusterRun run{std::max(end_of(*extent_) / size, run_.end + 1), true};
        while (extent_ && extent_->offset < run.end * size) {
            run.in_place = run.in_place && extent_->in_place;
            if (end_of(*extent_) > run.end * size) break;
            extent_ = map_->next();
        }
        return run;
    }

    LayerMap* map_;
    std::optional<LayerExtent> extent_;  // holds the first byte behind the run
    ClusterRun run_;
};

/// How many clusters are in ranges that come in ascending order and may share their first and last ones.
class ClusterCount {
  public:
    void add(std::uint64_t begin, std::uint64_t end) {
        begin = std::max(begin, end_);
        if (begin >= end) return;
        count_ += end - begin;
        end_ = end;
    }
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

  private:
    std::uint64_t end_ = 0;
    std::uint64_t count_ = 0;
};

}  // namespace

LayerBytes bytes_of(LayerMap& map) {
    LayerBytes bytes;
    while (const auto extent = map.next()) {
        switch (extent->kind) {
            case LayerKind::data:
                bytes.data += extent->length;
                break;
            case LayerKind::zero:
                bytes.zero += extent->length;
                break;
            case LayerKind::absent:
                bytes.absent += extent->length;
                break;
        }
    }
    return bytes;
}

std::uint64_t bytes_of_data(LayerMap& map) {
    return bytes_of(map).data;
}

MissingBytes bytes_missing(LayerMap& upper, LayerMap& lower) {
    const std::uint64_t size = lower.cluster_size();
    ClusterRuns runs(lower);
    ClusterCount data;
    ClusterCount all;
    while (const auto extent = upper.next()) {
        if (extent->kind == LayerKind::absent) continue;
        const std::uint64_t end = divide_up(end_of(*extent), size);
        for (std::uint64_t cluster = extent->offset / size; cluster < end;) {
            const ClusterRun& run = runs.at(cluster);
            const std::uint64_t until = std::min(end, run.end);
            if (!run.in_place) all.add(cluster, until);
            if (!run.in_place && extent->kind == LayerKind::data) data.add(cluster, until);
            cluster = until;
        }
    }
    return {data.count() * size, (all.count() - data.count()) * size};
}

}  // namespace volchain::qcow2
