// SPDX-License-Identifier: MIT
#include "client/verb.h"

#include <algorithm>
#include <iterator>

namespace volchain::client {
namespace {

std::vector<Verb> all_verbs() {
    std::vector<Verb> all;
    for (auto* rows : {pool_verbs, disk_verbs, volume_verbs, vm_verbs, snapshot_verbs, export_verbs,
                       backup_verbs, schedule_verbs, job_verbs, host_verbs}) {
        std::vector<Verb> some = rows();
        std::move(some.begin(), some.end(), std::back_inserter(all));
    }
    return all;
}

Parameter parameter(std::string_view word) {
    Parameter parsed{word};
    parsed.optional = word.starts_with('[');
    if (parsed.optional) word = word.substr(1, word.size() - 2);
    parsed.repeated = word.ends_with("...");
    if (parsed.repeated) word.remove_suffix(3);
    parsed.word = word;
    return parsed;
}

}  // namespace

std::vector<Parameter> parameters(std::string_view usage) {
    std::vector<Parameter> all;
    while (!usage.empty()) {
        const std::size_t length = std::min(usage.find(' '), usage.size());
        all.push_back(parameter(usage.substr(0, length)));
        usage.remove_prefix(std::min(length + 1, usage.size()));
    }
    return all;
}

const std::vector<Noun>& nouns() {
    static const std::vector<Noun> all{
        {"pool", "directories in which images live"},
        {"disk", "disks of VMs: each a tree of volumes and its active one"},
        {"volume", "image files"},
        {"vm", "virtual machines whose disks are looked after"},
        {"snapshot", "instants of a VM's disks"},
        {"export", "volumes that are shown to backup appliances"},
        {"backup", "moments of VMs' disks that are held for backups, and kept in directories"},
        {"schedule", "snapshots that are taken, and removed again, by the calendar"},
        {"job", "operations under way, and what became of them"},
    };
    return all;
}

const std::vector<Verb>& verbs() {
    static const std::vector<Verb> all = all_verbs();
    return all;
}

const std::vector<Option>& common_options() {
    static const std::vector<Option> all{
        {"json", "short|pretty|off", "print JSON: in one line, or for people"},
        {"", "", "the same as --json=pretty on a terminal, --json=short elsewhere", 'j'},
        {"no-legend", "", "tables without header and footer"},
        {"no-pager", "", "print at once what does not fit on the screen"},
        {"quiet", "", "no progress; of what was made only the id", 'q'},
        {"no-wait", "", "print the job's id instead of waiting for its end"},
        {"no-ask-password", "", "fail where authorization would need a password"},
        {"help", "", "say what there is, here or of a noun or verb", 'h'},
        {"version", "", "say which version this is"},
    };
    return all;
}

bool is_noun(std::string_view word) {
    return std::any_of(nouns().begin(), nouns().end(),
                       [word](const Noun& noun) { return noun.name == word; });
}

const Verb* find_verb(std::string_view noun, std::string_view name) {
    const auto found = std::find_if(verbs().begin(), verbs().end(),
                                    [&](const Verb& verb) { return verb.noun == noun && verb.name == name; });
    return found == verbs().end() ? nullptr : &*found;
}

}  // namespace volchain::client
