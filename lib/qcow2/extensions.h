// SPDX-License-Identifier: MIT
//
// The header extensions: the list of typed records between the header and the backing file name.
// Internal to this library: read_header() calls it and fills the Header.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qcow2/header.h"

namespace volchain::qcow2 {

struct FeatureName {
    FeatureKind kind = FeatureKind::incompatible;
    std::uint32_t bit = 0;
    std::string name;
};
using FeatureNames = std::vector<FeatureName>;

/// Reads the extensions in `area` into `header`, whose fixed fields are filled in, and returns the
/// feature names.
[[nodiscard]] FeatureNames read_extensions(const ImageSource& source, const Region& area, Header& header);

/// Just the feature names, and none at all where the area is damaged: for the message about an image
/// that cannot be read anyway.
[[nodiscard]] FeatureNames find_feature_names(const ImageSource& source, const Region& area);

/// The name of a bit, empty if the table has none.
[[nodiscard]] std::string feature_name(const FeatureNames& names, FeatureKind kind, std::uint32_t bit);

}  // namespace volchain::qcow2
