// SPDX-License-Identifier: MIT
//
// identify(): which image format a file carries the marks of.
//
// There is no "raw" among the answers, on purpose. A raw image has no marks, and a guest writes what it
// likes into one: the header of a qcow2 image with a backing file that it wants to read, for instance.
// So nothing that is found in a file, and nothing that is not found, makes it raw. It is raw only
// because its owner declares it so, and a file that is declared raw and carries the marks of a format is
// for the caller to refuse, because sooner or later some tool will probe it. (One innocent case: a guest
// that encrypts its whole disk with LUKS, without a partition table.)
#pragma once

#include <optional>
#include <string_view>

#include "qcow2/image_source.h"

namespace volchain::qcow2 {

enum class Format { qcow2, qcow, vmdk, vdi, vpc, vhdx, qed, luks, parallels, bochs, cloop, dmg };

/// The format whose marks are there, none where no known ones are. Marks are not a promise:
/// read_header() tells whether a qcow2 image is one. Reads the first 4 KiB and the last sector.
[[nodiscard]] std::optional<Format> identify(const ImageSource& source);

/// The name of QEMU's driver (QAPI BlockdevDriver).
[[nodiscard]] std::string_view name(Format format) noexcept;

}  // namespace volchain::qcow2
