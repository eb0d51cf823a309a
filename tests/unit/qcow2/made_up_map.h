// SPDX-License-Identifier: MIT
//
// Layers without an image, for tests of what is made of their maps.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "qcow2/layer_map.h"

namespace volchain::qcow2::made_up {

struct Part {
    std::uint64_t length = 0;
    LayerKind kind = LayerKind::absent;
    bool in_place = false;
};

constexpr Part data(std::uint64_t length) {
    return {length, LayerKind::data, true};
}
constexpr Part compressed(std::uint64_t length) {
    return {length, LayerKind::data, false};
}
constexpr Part zero(std::uint64_t length) {
    return {length, LayerKind::zero, false};
}
constexpr Part allocated_zero(std::uint64_t length) {
    return {length, LayerKind::zero, true};
}
constexpr Part absent(std::uint64_t length) {
    return {length, LayerKind::absent, false};
}

/// A layer of those parts.
class MadeUpMap final : public LayerMap {
  public:
    MadeUpMap(std::uint64_t cluster_size, const std::vector<Part>& parts)
        : LayerMap(std::accumulate(parts.begin(), parts.end(), std::uint64_t{0},
                                   [](std::uint64_t sum, const Part& part) { return sum + part.length; }),
                   cluster_size),
          parts_(parts) {}

    /// How often it was asked what begins at some place.
    [[nodiscard]] std::size_t looks() const noexcept { return looks_; }

  private:
    LayerExtent piece(std::uint64_t offset) override {
        ++looks_;
        std::uint64_t end = 0;
        for (const Part& part : parts_) {
            end += part.length;
            if (offset < end) return {offset, end - offset, part.kind, part.in_place};
        }
        return {offset, 0, LayerKind::absent, false};
    }

    std::vector<Part> parts_;
    std::size_t looks_ = 0;
};

}  // namespace volchain::qcow2::made_up
