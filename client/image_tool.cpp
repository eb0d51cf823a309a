// SPDX-License-Identifier: MIT
#include "client/image_tool.h"

#include "base/json.h"
#include "base/text.h"
#include "client/block_runs.h"
#include "client/program_path.h"

namespace volchain::client {
namespace {

constexpr auto quick_limit = std::chrono::minutes(2);
/// All tables of a large image are read.
constexpr auto check_limit = std::chrono::hours(12);
constexpr std::uint64_t most_memory = std::uint64_t{4} << 30;
constexpr int found_corruptions = 2;
constexpr int found_leaks = 3;

async::Task<async::RunResult> run_qemu_img(std::vector<std::string> words, std::string image, bool write,
                                           async::Deadline deadline) {
    words.insert(words.begin(), program_path("qemu-img", qemu_img_package));
    async::Command command(std::move(words));
    command.max_memory = most_memory;
    command.files.push_back({std::move(image), write});
    co_return co_await async::run_process(std::move(command), deadline);
}

/// What it has said, in a line.
std::string words_of(const async::RunResult& result) {
    std::string text = result.errors;
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text.empty() ? result.status.str() : clipped(text);
}

Json report_of(const async::RunResult& result, const std::string& path) {
    return parse_json(result.output, "qemu-img's report on " + quote(path), ErrorCode::corrupt_image);
}

/// The image alone, whatever its header says that it stands on.
std::string alone(const std::string& path) {
    const Json image{
        {"driver", "qcow2"}, {"file", {{"driver", "file"}, {"filename", path}}}, {"backing", nullptr}};
    return "json:" + image.dump();
}

}  // namespace

async::Task<> create_image(std::string path, std::uint64_t size, std::string backing) {
    std::vector<std::string> words{"create", "-q", "-u", "-f", "qcow2"};
    words.insert(words.end(), {"-o", fmt::format("compat=1.1,cluster_size={}", block_bytes)});
    if (!backing.empty()) words.insert(words.end(), {"-b", std::move(backing), "-F", "qcow2"});
    words.push_back(path);
    words.push_back(std::to_string(size));
    const auto result = co_await run_qemu_img(std::move(words), path, true, async::after(quick_limit));
    if (result.status.ok()) co_return;
    const bool full = result.errors.find("No space left") != std::string::npos;
    throw Error(full ? ErrorCode::no_space : ErrorCode::qemu_failed, "cannot make the image {}: {}",
                quote(path), words_of(result));
}

async::Task<ImageInfo> image_info(std::string path) {
    std::vector<std::string> words{"info", "--force-share", "-f", "qcow2", "--output=json", path};
    const auto result = co_await run_qemu_img(std::move(words), path, false, async::after(quick_limit));
    if (!result.status.ok())
        throw Error(ErrorCode::corrupt_image, "{} cannot be opened as an image: {}", quote(path),
                    words_of(result));
    const Json report = report_of(result, path);
    const JsonReader reader(report, "qemu-img's report on " + quote(path), ErrorCode::corrupt_image);
    ImageInfo info;
    info.size = reader.at("virtual-size").u64();
    info.cluster_bytes = reader.u64_or("cluster-size", 0);
    info.backing = reader.string_or("backing-filename", "");
    info.backing_format = reader.string_or("backing-filename-format", "");
    if (const auto specific = reader.find("format-specific"))
        if (const auto data = specific->find("data")) info.data_file = data->find("data-file").has_value();
    co_return info;
}

async::Task<ImageReport> check_image(std::string path) {
    std::vector<std::string> words{"check", "--force-share", "--output=json", alone(path)};
    const auto result = co_await run_qemu_img(std::move(words), path, false, async::after(check_limit));
    const int code = result.status.code;
    const bool told =
        result.status.signal == 0 && (code == 0 || code == found_corruptions || code == found_leaks);
    if (!told)
        throw Error(ErrorCode::corrupt_image, "{} cannot be checked: {}", quote(path), words_of(result));
    const Json json = report_of(result, path);
    const JsonReader reader(json, "qemu-img's report on " + quote(path), ErrorCode::corrupt_image);
    ImageReport report;
    report.corruptions = reader.u64_or("corruptions", 0);
    report.leaks = reader.u64_or("leaks", 0);
    report.errors = reader.u64_or("check-errors", 0);
    co_return report;
}

}  // namespace volchain::client
