// SPDX-License-Identifier: MIT
//
// qemu-img, for the little that QMP cannot do. It runs with limits, is told the format of the image, looks at
// backing files only where the content of a chain is asked for, and whatever it writes to stderr counts as a failure, whatever its exit status
// says.
#pragma once

#include <optional>
#include <string>
#include <vector>

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
    std::vector<async::Command::Access> files;
    std::uint64_t max_memory = std::uint64_t{2} << 30;

    /// "qemu-img check": its report (ImageCheck), also where that tells of corruptions ("corruptions",
    /// "leaks"). The image must not be open for writing elsewhere: InUse where it is.
    async::Task<Json> check(std::string path, std::string format, async::Deadline deadline) const;
    /// "qemu-img check -r leaks" of a qcow2 image: its report on what is left then. The image must not be open elsewhere
    /// at all: InUse where it is. It may be broken off at any point.
    async::Task<Json> free_leaks(std::string path, async::Deadline deadline) const;

    /// "qemu-img compare": whether both show the same, through all that they stand on.
    async::Task<bool> same_content(std::string first, std::string first_format, std::string second,
                                   std::string second_format, async::Deadline deadline) const;
    /// "qemu-img rebase -u": only the name of the backing file in the header of a qcow2 image; what it shows stays the same
    /// only where the new one shows what the old one did.
    async::Task<> change_backing(std::string path, std::string backing, std::string backing_format,
                                 async::Deadline deadline) const;

  private:
    [[nodiscard]] async::Task<async::RunResult> run(std::vector<std::string> arguments,
                                                    async::Deadline deadline) const;

    std::string program_;
};

}  // namespace volchain::qmp
