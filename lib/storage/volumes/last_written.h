// SPDX-License-Identifier: MIT
//
// LastWritten: which of two images a guest wrote to last, when a mirror or an active commit let the guest pass from one to the
// other, and QEMU and the daemon both ended in that moment. Where both show the same, the target is as good as the source. Where they
// differ, either the target lags behind by what the guest wrote in the last moment before the switch, or the guest has gone on
// writing to it: that shows in the times at which they were written last. Nothing is changed here.
#pragma once

#include <string>
#include <vector>

#include "storage/qemu/helper.h"

namespace volchain::storage {

class LastWritten {
  public:
    enum class Verdict { same, source, target };

    LastWritten(std::string source, VolumeFormat source_format, std::string target,
                VolumeFormat target_format)
        : source_(std::move(source)),
          source_format_(source_format),
          target_(std::move(target)),
          target_format_(target_format) {}

    /// Reads all that both show; no process may write to them. `images`: the two, and all that they stand on.
    [[nodiscard]] async::Task<Verdict> judge(Engine& engine, std::vector<ImageAccess> images);

  private:
    std::string source_;
    VolumeFormat source_format_;
    std::string target_;
    VolumeFormat target_format_;
};

}  // namespace volchain::storage
