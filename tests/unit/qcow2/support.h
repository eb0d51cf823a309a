// SPDX-License-Identifier: MIT
//
// What the tests of lib/qcow2 share: a temporary directory, programs of QEMU run to their end, images as
// bytes, and the comparison of what we read with what "qemu-img info" says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "qcow2/big_endian.h"
#include "qcow2/header.h"
#include "qcow2/layer_map.h"

namespace volchain::qcow2 {

using Bytes = std::vector<std::byte>;
using Words = std::vector<std::string>;

/// Gone with all that is in it when the test ends.
class TemporaryDirectory {
  public:
    TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory();

    [[nodiscard]] std::string operator/(std::string_view name) const;

  private:
    std::string path_;
};

struct Outcome {
    int status = -1;  // exit status, or 128 and the signal
    std::string output;
    std::string errors;
};

/// Runs a program of $PATH to its end.
[[nodiscard]] Outcome run(const Words& words);
/// As run(), and the test fails if the program does; returns what it printed.
std::string run_well(const Words& words);

/// "qemu-img create -f qcow2 [-o options] [more] path size".
void create(const std::string& path, std::string_view size, std::string_view options = {},
            const Words& more = {});
/// The same as bytes, from a directory of its own.
[[nodiscard]] Bytes created(std::string_view size, std::string_view options = {}, const Words& more = {});
/// One with LUKS encryption; made once, since that takes seconds.
[[nodiscard]] const Bytes& luks_image();
/// "qemu-img info", none where QEMU refuses the image.
[[nodiscard]] std::optional<Json> info(const std::string& path);

[[nodiscard]] Bytes load(const std::string& path);
void store(const std::string& path, std::span<const std::byte> bytes);

template <std::unsigned_integral T>
void put(Bytes& bytes, std::size_t offset, T value) {
    store_be(std::span(bytes).subspan(offset), value);
}
template <std::unsigned_integral T>
[[nodiscard]] T get(const Bytes& bytes, std::size_t offset) {
    return load_be<T>(std::span(bytes).subspan(offset));
}
void put_text(Bytes& bytes, std::size_t offset, std::string_view text);

[[nodiscard]] Header header_of(const Bytes& bytes);
[[nodiscard]] Header header_of_file(const std::string& path);

/// What the map has left.
[[nodiscard]] std::vector<LayerExtent> all_of(LayerMap& map);
/// What the qcow2 image holds by itself.
[[nodiscard]] std::vector<LayerExtent> extents_of_file(const std::string& path);

/// The error that `work` throws, none where it throws none.
[[nodiscard]] std::optional<Error> error_of(const std::function<void()>& work);
/// Reads all that there is (header, bitmaps, snapshots, L1 and L2 tables) and returns the error that stopped it.
[[nodiscard]] std::optional<Error> error_in(const Bytes& bytes);
/// The test fails unless that error has this code and `part` in its text.
void expect_refused(const Bytes& bytes, ErrorCode code, std::string_view part);

/// One field of an image set to a value that is not allowed there, and what comes of it.
struct Damage {
    std::size_t offset = 0;
    std::size_t width = 0;  // bytes of the field
    std::uint64_t value = 0;
    ErrorCode code = ErrorCode::corrupt_image;
    std::string_view part;    // of our message
    bool qemu_opens = false;  // QEMU 7.2 does: we are stricter
};

/// A copy of `bytes` with the field set.
[[nodiscard]] Bytes damaged(Bytes bytes, const Damage& damage);
/// The test fails unless each damage to `bytes` is refused as it says, and QEMU does with it what it says.
void expect_damage_refused(const Bytes& bytes, std::span<const Damage> damages);

/// Where the header extension of that type begins in a real image.
[[nodiscard]] std::size_t extension_at(const Bytes& bytes, std::uint32_t type);

/// The test fails unless what we read in the file is what QEMU says of it.
void expect_as_qemu_says(const std::string& path);

}  // namespace volchain::qcow2
