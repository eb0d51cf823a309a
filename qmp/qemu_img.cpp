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

[[noreturn]] void fail(std::string_view what, const std::string& path, const async::RunResult& result) {
    const std::string& words = result.errors.empty() ? result.output : result.errors;
    throw Error(code_of_words(words), "qemu-img cannot {} {} ({}): {}", what, quote(path),
                result.status.str(), words.empty() ? "no reason given" : clipped(words, max_words));
}

}  // namespace

QemuImg::QemuImg(std::string program)
    : program_(program.empty() ? find_program("qemu-img") : std::move(program)) {}

async::Task<async::RunResult> QemuImg::run(std::vector<std::string> arguments,
                                           async::Deadline deadline) const {
    arguments.insert(arguments.begin(), program_);
    async::Command command(std::move(arguments));
    command.identity = identity;
    command.files = files;
    command.max_memory = max_memory;
    co_return co_await async::run_process(std::move(command), deadline);
}

async::Task<Json> QemuImg::check(std::string path, std::string format, async::Deadline deadline) const {
    std::vector<std::string> arguments{"check", "--output=json"};
    arguments.push_back(pseudo_name(path, format));
    const async::RunResult result = co_await run(std::move(arguments), deadline);
    // 2: corruptions, 3: leaks (qemu-img(1)): the report tells of them, and stderr of each one. Else any word
    // there is a failure, even where the exit status is 0.
    const bool found_damage =
        result.status.signal == 0 && (result.status.code == 2 || result.status.code == 3);
    if (!found_damage && (!result.status.ok() || !result.errors.empty())) fail("check", path, result);
    co_return parse_json(result.output, "report of qemu-img check", ErrorCode::qemu_failed);
}

async::Task<Json> QemuImg::free_leaks(std::string path, async::Deadline deadline) const {
    std::vector<std::string> arguments{"check", "--output=json", "-r", "leaks"};
    arguments.push_back(pseudo_name(path, "qcow2"));
    const async::RunResult result = co_await run(std::move(arguments), deadline);
    // Each cluster that it frees is a word on stderr; the exit status is about what is left then.
    const bool ended = result.status.signal == 0 &&
                       (result.status.code == 0 || result.status.code == 2 || result.status.code == 3);
    if (!ended) fail("free the leaked clusters of", path, result);
    co_return parse_json(result.output, "report of qemu-img check", ErrorCode::qemu_failed);
}

async::Task<bool> QemuImg::same_content(std::string first, std::string first_format, std::string second,
                                        std::string second_format, async::Deadline deadline) const {
    std::vector<std::string> arguments{"compare",     "-q", "-f",  first_format, "-F",
                                       second_format, "--", first, second};
    const async::RunResult result = co_await run(std::move(arguments), deadline);
    const bool differ = result.status.signal == 0 && result.status.code == 1;
    if (!differ && (!result.status.ok() || !result.errors.empty())) fail("compare", first, result);
    co_return !differ;
}

async::Task<> QemuImg::change_backing(std::string path, std::string backing, std::string backing_format,
                                      async::Deadline deadline) const {
    std::vector<std::string> arguments{"rebase", "-u", "-f",           "qcow2", "-b",
                                       backing,  "-F", backing_format, "--",    path};
    const async::RunResult result = co_await run(std::move(arguments), deadline);
    if (!result.status.ok() || !result.errors.empty()) fail("rebase", path, result);
}

}  // namespace volchain::qmp
