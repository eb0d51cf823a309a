// SPDX-License-Identifier: MIT
//
// qemu-img, for the little that QMP cannot do. It runs with limits, is told the format of the image and never
// looks at a backing file, and whatever it writes to stderr counts as a failure, whatever its exit status
// says.
#pragma once

#include <optional>
#include <string>

#include "async/process.h"
#include "base/json.h"

namespace volchain::qmp {

/// A class with a constructor, so that it may be handed to coroutines.
class QemuImg {
  public:
    /// `program`: where empty, qemu-img is looked for.
    explicit QemuImg(std::string program = {});

    /// As in async::Command.
    std::optional<async::Identity> identity;
    std::uint64_t max_memory = std::uint64_t{2} << 30;

    /// "qemu-img check": its report (ImageCheck), also where that tells of corruptions ("corruptions",
    /// "leaks"). The image must not be open for writing elsewhere: InUse where it is.
    async::Task<Json> check(std::string path, std::string format, async::Deadline deadline) const;

  private:
    std::string program_;
};

}  // namespace volchain::qmp
