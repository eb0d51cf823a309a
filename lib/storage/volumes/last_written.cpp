// SPDX-License-Identifier: MIT
#include "storage/volumes/last_written.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/text.h"

namespace volchain::storage {
namespace {

/// A guest's write is in the target this long after it was in the source, at most (BLOCK_JOB_SLICE_TIME is 100 ms).
constexpr auto mirror_delay = std::chrono::seconds(1);
constexpr auto compare_limit = std::chrono::hours(4);

std::chrono::nanoseconds written_last(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    return std::chrono::seconds(status.st_mtim.tv_sec) + std::chrono::nanoseconds(status.st_mtim.tv_nsec);
}

}  // namespace

async::Task<LastWritten::Verdict> LastWritten::judge(Engine& engine, std::vector<ImageAccess> images) {
    const qmp::QemuImg qemu_img = co_await helper_qemu_img(engine, std::move(images));
    std::string source_format(word(source_format_));
    std::string target_format(word(target_format_));
    const bool same = co_await qemu_img.same_content(source_, std::move(source_format), target_,
                                                     std::move(target_format), async::after(compare_limit));
    if (same) co_return Verdict::same;
    auto look = [source = source_, target = target_] {
        return written_last(target) > written_last(source) + mirror_delay;
    };
    const bool went_on = co_await engine.files().run(std::move(look));
    co_return went_on ? Verdict::target : Verdict::source;
}

}  // namespace volchain::storage
