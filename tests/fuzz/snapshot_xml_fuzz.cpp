// SPDX-License-Identifier: MIT
//
// Feeds what anybody could call a snapshot document to its reader: it is refused, or what was read, written down and read
// again is the same. The same text as a VM's configuration, and as a calendar: an answer, or a refusal.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "storage/documents/snapshot_xml.h"
#include "storage/schedules/calendar.h"

namespace volchain::storage {
namespace {

void read_and_write(std::string_view text) {
    SnapshotXml first = parse_snapshot_xml(text);
    const std::string domain = first.domain_xml;
    SnapshotXml second = parse_snapshot_xml(format_snapshot_xml(first));
    // Between its elements there may be other white space.
    if (second.domain_xml.empty() != domain.empty()) std::abort();
    first.domain_xml.clear();
    second.domain_xml.clear();
    if (!(first == second)) std::abort();
}

template <typename F>
void or_refused(const F& call) {
    try {
        call();
    } catch (const Error& error) {
        if (error.code() != ErrorCode::invalid_argument) std::abort();
    }
}

}  // namespace
}  // namespace volchain::storage

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain::storage;
    const std::string text(reinterpret_cast<const char*>(data), size);
    or_refused([&] { read_and_write(text); });
    (void)read_domain_xml(text);
    or_refused([&] { (void)parse_calendar(text); });
    return 0;
}
