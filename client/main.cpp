// SPDX-License-Identifier: MIT
//
// volchainctl: reads its command line by the verb table and runs one verb. Exit status 0 where it is done, 1
// where it failed, 2 for a wrong command line; at ^C while it waits for a job it ends as SIGINT ends a
// program, as where a command was asked by another signal to end (stop_sign.h).

#include <clocale>
#include <csignal>
#include <cstdio>

#include "async/loop.h"
#include "base/log.h"
#include "client/arguments.h"
#include "client/help.h"
#include "client/job_wait.h"
#include "client/session.h"
#include "client/usage_error.h"

namespace {

using namespace volchain;
using namespace volchain::client;

constexpr int failed = 1;
constexpr int wrong_usage = 2;

void print_help(const CommandLine& line) {
    Output output(line.settings);
    if (output.json())
        output.print_json(help_json());
    else if (line.arguments)
        output.print_text(verb_help(line.arguments->verb()));
    else
        output.print_text(line.noun.empty() ? general_help() : noun_help(line.noun));
}

void run(const CommandLine& line) {
    if (line.settings.version) return Output(line.settings).print_text("volchainctl " VOLCHAIN_VERSION "\n");
    if (line.settings.help) return print_help(line);
    async::Loop loop;
    Session session(loop.executor(), line.settings);
    loop.run_main(line.arguments->verb().run(session, *line.arguments));
}

void complain(const std::string& text) {
    TextStyle style;
    style.colour = may_colour(2);
    (void)std::fprintf(stderr, "volchainctl: %s\n", coloured(printable(text), Tone::bad, style).c_str());
}

/// So that a shell which runs a loop of commands sees that the user wants no more of them.
int end_by(int signal) {
    (void)std::signal(signal, SIG_DFL);
    (void)std::raise(signal);
    return failed;
}

}  // namespace

int main(int argc, char** argv) {
    // Of the locale only what it says of characters: numbers and sorting are the same everywhere.
    (void)std::setlocale(LC_CTYPE, "");
    // What the libraries have to say is said by the errors that they throw.
    set_log_sink([](LogLevel, std::string_view, const LogFields&) {});
    try {
        run(parse_command_line({argv + 1, argv + argc}));
        check_printed();
        return 0;
    } catch (const UsageError& error) {
        complain(error.what());
        return wrong_usage;
    } catch (const Interrupted& interrupted) {
        return end_by(interrupted.signal);
    } catch (...) {
        complain(explain(std::current_exception()));
        return failed;
    }
}
