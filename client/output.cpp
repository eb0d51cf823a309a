// SPDX-License-Identifier: MIT
#include "client/output.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "client/pager.h"

namespace volchain::client {
namespace {

JsonMode json_mode(const Settings& settings) {
    if (settings.json) return *settings.json;
    if (!settings.json_as_fits) return JsonMode::off;
    return ::isatty(STDOUT_FILENO) != 0 ? JsonMode::pretty : JsonMode::compact;
}

void put(std::FILE* file, const std::string& text) {
    (void)std::fwrite(text.data(), 1, text.size(), file);
}

/// Whether it is more than the screen shows at once.
bool longer_than_screen(const std::string& text) {
    const std::size_t rows = terminal_size(STDOUT_FILENO).rows;
    return rows > 0 && static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) >= rows;
}

}  // namespace

TerminalSize terminal_size(int fd) {
    winsize size{};
    if (::isatty(fd) == 0) return {};
    if (::ioctl(fd, TIOCGWINSZ, &size) < 0 || size.ws_row == 0 || size.ws_col == 0) return {24, 80};
    return {size.ws_row, size.ws_col};
}

bool may_colour(int fd) {
    const char* const no_colour = std::getenv("NO_COLOR");
    const char* const terminal = std::getenv("TERM");
    return ::isatty(fd) != 0 && (no_colour == nullptr || *no_colour == '\0') && terminal != nullptr &&
           std::string_view(terminal) != "dumb";
}

Output::Output(const Settings& settings)
    : json_(json_mode(settings)), quiet_(settings.quiet), pager_(settings.pager) {
    style_.legend = settings.legend;
    style_.colour = may_colour(STDOUT_FILENO);
    style_.utf8 = utf8_locale();
}

std::string Output::json_text(const OrderedJson& document) const {
    constexpr int one_line = -1;
    constexpr int indentation = 2;
    // D-Bus has only valid UTF-8; a configuration may have anything.
    return document.dump(json_ == JsonMode::pretty ? indentation : one_line, ' ', false,
                         OrderedJson::error_handler_t::replace);
}

void Output::print_json(const OrderedJson& document) {
    print_text(json_text(document) + "\n");
}

void Output::print_text(const std::string& text) {
    if (pager_ && longer_than_screen(text) && show_in_pager(text)) return;
    put(stdout, text);
}

void Output::print_raw(const std::string& bytes) {
    put(stdout, bytes);
}

void Output::print_line(const std::string& line) {
    put(stdout, line + "\n");
    (void)std::fflush(stdout);
}

void Output::note(const std::string& text) {
    if (!quiet_) put(stderr, text + "\n");
}

void check_printed() {
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
        throw system_error(errno, "cannot print all of the answer");
}

}  // namespace volchain::client
