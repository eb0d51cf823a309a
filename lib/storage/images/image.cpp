// SPDX-License-Identifier: MIT
#include "storage/images/image.h"

#include <sys/stat.h>

#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/identify.h"

namespace volchain::storage {
namespace {

/// QEMU takes "word:" at the start of a file name for a protocol (block.c, path_has_protocol).
bool names_a_protocol(std::string_view name) {
    const auto colon = name.find(':');
    return colon != std::string_view::npos && name.find('/') > colon;
}

struct OpenImage {
    UniqueFd fd;
    std::uint64_t allocated = 0;
};

OpenImage open_image(const std::string& pool, const std::string& file) {
    const UniqueFd directory = open_directory(pool);
    OpenImage image{open_beneath(directory.get(), file, O_RDONLY), 0};
    struct stat status {};
    if (::fstat(image.fd.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(file));
    if (!S_ISREG(status.st_mode))
        throw Error(ErrorCode::unsafe_image, "{} is not a regular file", quote(file));
    image.allocated = static_cast<std::uint64_t>(status.st_blocks) * 512;
    return image;
}

VolumeFacts facts_of(const std::string& pool, const std::string& file, const qcow2::ImageSource& source,
                     VolumeFormat format) {
    VolumeFacts facts;
    facts.state = VolumeState::ok;
    if (format == VolumeFormat::raw) {
        facts.size = raw_disk_size(source.size());
        return facts;
    }
    facts.header = qcow2::read_header(source);
    facts.size = facts.header->virtual_size;
    if (facts.header->backing_file) facts.backing = backing_reference(pool, file, *facts.header);
    facts.bitmaps = qcow2::read_bitmaps(source, *facts.header);
    return facts;
}

/// What the kernel makes of the name in the header must be what its text says: "a/../b" is another file than
/// "b" where "a" is a link, and who opens the image by its name alone gets that one.
void refuse_links(const std::string& pool, const std::string& file, const BackingReference& backing) {
    std::error_code failure;
    const auto named = (std::filesystem::path(pool) / file).parent_path() / backing.name;
    const auto real = std::filesystem::canonical(named, failure);
    if (failure)
        throw Error(ErrorCode::broken_chain, "the image's backing file {} cannot be used: {}",
                    quote(backing.name), failure.message());
    if (real != backing.path)
        throw Error(ErrorCode::unsafe_image,
                    "the image's backing file {} leads through a symbolic link to {}", quote(backing.name),
                    quote(real.string()));
}

void refuse_unsafe_header(const VolumeFacts& facts) {
    const qcow2::Header& header = *facts.header;
    if (header.features.external_data_file)
        throw Error(ErrorCode::unsafe_image,
                    "the image keeps its data in another file ({}); convert it to one without",
                    quote(header.data_file.value_or("not named")));
    if (header.encryption != qcow2::Encryption::none)
        throw Error(ErrorCode::unsupported, "the image is encrypted ({})", qcow2::name(header.encryption));
    if (header.features.corrupt)
        throw Error(ErrorCode::corrupt_image,
                    "the image is marked corrupt; look at it with 'qemu-img check'");
    if (!facts.backing) return;
    if (facts.backing->path.empty())
        throw Error(ErrorCode::unsafe_image, "the image's backing file {} is not a plain path",
                    quote(facts.backing->name));
    if (!valid_utf8(facts.backing->name))
        throw Error(ErrorCode::unsupported, "the name of the image's backing file {} is not UTF-8",
                    quote(facts.backing->name));
    if (facts.backing->format.empty())
        throw Error(
            ErrorCode::unsafe_image,
            "the image does not say which format its backing file {} has, and QEMU would guess; set it with "
            "'qemu-img rebase -u -b FILE -F FORMAT IMAGE'",
            quote(facts.backing->name));
    if (!from_word<VolumeFormat>(facts.backing->format))
        throw Error(ErrorCode::unsupported, "the image's backing file {} has format {}; known are {}",
                    quote(facts.backing->name), quote(facts.backing->format), all_words<VolumeFormat>());
}

VolumeFacts inspect_foreign_source(const std::string& pool, const std::string& file,
                                   const qcow2::ImageSource& source, std::optional<VolumeFormat> format) {
    const auto marks = qcow2::identify(source);
    if (format == VolumeFormat::raw && marks)
        throw Error(
            ErrorCode::unsafe_image,
            "declared raw, but it carries the marks of {}: a guest may have written them to have a tool open "
            "other files",
            qcow2::name(*marks));
    if (format != VolumeFormat::raw && marks != qcow2::Format::qcow2) {
        if (format) throw Error(ErrorCode::corrupt_image, "declared qcow2, but it is none");
        if (marks)
            throw Error(ErrorCode::unsupported, "format {} is not supported; convert it to qcow2 or raw",
                        qcow2::name(*marks));
        throw Error(
            ErrorCode::invalid_argument,
            "no qcow2 image; if it is a raw one, say so with format=raw: that cannot be found out safely");
    }
    VolumeFacts facts = facts_of(pool, file, source, format.value_or(VolumeFormat::qcow2));
    if (facts.header) refuse_unsafe_header(facts);
    if (facts.backing) refuse_links(pool, file, *facts.backing);
    return facts;
}

}  // namespace

BackingReference backing_reference(const std::string& pool, const std::string& file,
                                   const qcow2::Header& header) {
    BackingReference backing{
        .name = *header.backing_file, .path = {}, .format = header.backing_format.value_or("")};
    if (names_a_protocol(backing.name)) return backing;
    const auto directory = (std::filesystem::path(pool) / file).parent_path();
    backing.path = (directory / backing.name).lexically_normal().string();
    return backing;
}

std::uint64_t raw_disk_size(std::uint64_t file_bytes) {
    return (file_bytes + 511) / 512 * 512;
}

VolumeFacts inspect_image(const std::string& pool, const std::string& file, VolumeFormat format) {
    VolumeFacts facts;
    try {
        const OpenImage image = open_image(pool, file);
        facts = facts_of(pool, file, qcow2::FileSource(image.fd.get()), format);
        facts.allocated = image.allocated;
    } catch (const Error& error) {
        facts.state = error.code() == ErrorCode::not_found ? VolumeState::missing : VolumeState::corrupt;
        facts.problem = error.what();
    }
    return facts;
}

VolumeFacts inspect_foreign_image(const std::string& pool, const std::string& file,
                                  std::optional<VolumeFormat> format) {
    try {
        const OpenImage image = open_image(pool, file);
        VolumeFacts facts = inspect_foreign_source(pool, file, qcow2::FileSource(image.fd.get()), format);
        facts.allocated = image.allocated;
        return facts;
    } catch (const Error& error) {
        throw error.during("image " + quote((std::filesystem::path(pool) / file).string()));
    }
}

}  // namespace volchain::storage
