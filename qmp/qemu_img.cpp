// SPDX-License-Identifier: MIT
#include "qmp/qemu_img.h"

#include "base/text.h"
#include "qmp/message.h"
#include "qmp/node.h"
#include "qmp/program.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t max_words = 1000;

/// The image alone, as a file name of QEMU's: with its format, without its backing file, and whatever is in
/// the path.
std::string pseudo_name(const std::string& path, const std::string& format) {
    Json node;
    node["driver"] = format;
    node["file"]["driver"] = "file";
    node["file"]["filename"] = path;
    if (format == "qcow2") node = without_backing(std::move(node));
    return "json:" + node.dump();
}

[[noreturn]] void fail(const std::string& path, const async::RunResult& result) {
    const std::string& words = result.errors.empty() ? result.output : result.errors;
    throw Error(code_of_words(words), "qemu-img cannot check {} ({}): {}", quote(path), result.status.str(),
                words.empty() ? "no reason given" : clipped(words, max_words));
}

}  // namespace

QemuImg::QemuImg(std::string program)
    : program_(program.empty() ? find_program("qemu-img") : std::move(program)) {}

async::Task<Json> QemuImg::check(std::string path, std::string format, async::Deadline deadline) const {
    std::vector<std::string> arguments{program_, "check", "--output=json"};
    arguments.push_back(pseudo_name(path, format));
    async::Command command(std::move(arguments));
    command.identity = identity;
    command.max_memory = max_memory;
    const async::RunResult result = co_await async::run_process(std::move(command), deadline);
    // 2: corruptions, 3: leaks (qemu-img(1)): the report tells of them, and stderr of each one. Else any word
    // there is a failure, even where the exit status is 0.
    const bool found_damage =
        result.status.signal == 0 && (result.status.code == 2 || result.status.code == 3);
    if (!found_damage && (!result.status.ok() || !result.errors.empty())) fail(path, result);
    co_return parse_json(result.output, "report of qemu-img check", ErrorCode::qemu_failed);
}

}  // namespace volchain::qmp
