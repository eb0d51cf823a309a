// SPDX-License-Identifier: MIT
//
// Completion of a command line, computed from the verb table. What can be said without asking anybody is said
// here; the names of objects are asked for by the hidden verb `complete` (host.cpp), which the shells' few
// lines call.
//
// The words of usages and option values say what they stand for: POOL, DISK, VOLUME, VM, SNAPSHOT, EXPORT, BACKUP,
// SCHEDULE and JOB are objects; FILE, DIRECTORY and SOCKET are left to the shell; "a|b" are words; "DISK=SNAPSHOT" is what
// it says;
// anything else (NAME, SIZE) is the user's own.
#pragma once

#include <string>
#include <vector>

namespace volchain::client {

struct Completion {
    /// What the last word may become.
    std::vector<std::string> candidates;
    /// The kind of object whose names may stand there, too; empty for none.
    std::string object_kind;
    /// The shell's own completion of file names applies.
    bool files = false;
    /// What stands before the value in the last word: "--disk=".
    std::string prefix;
    /// What goes on after the name of an object: "=".
    std::string suffix;
    /// The beginning of the value.
    std::string begun;
};

/// `words`: those after the program's name, up to the one where the cursor is, which may be empty.
[[nodiscard]] Completion complete(const std::vector<std::string>& words);

/// Those of `names` (pairs of name and id) that go on from what was begun: names, or ids where no name does.
struct NameAndId {
    std::string name;
    std::string id;
};
[[nodiscard]] std::vector<std::string> matching(const Completion& completion,
                                                const std::vector<NameAndId>& objects);

}  // namespace volchain::client
