// SPDX-License-Identifier: MIT
#include "storage/memory/memory_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "support.h"

namespace volchain::storage::memory_file_test {
namespace {

/// What QEMU's begins with, and some bytes of it.
const std::string stream = std::string("QEVM\0\0\0\3", 8) + "what the machine was";

/// libvirt's header, as "virsh save" writes it, with an XML of so many bytes behind it.
std::string libvirt_header(std::string_view magic, std::uint32_t version, std::uint32_t compressed,
                           std::uint32_t xml_bytes) {
    std::string header(92, '\0');
    std::memcpy(header.data(), magic.data(), magic.size());
    const std::uint32_t numbers[] = {version, xml_bytes, 1, compressed, 0};
    std::memcpy(header.data() + 16, numbers, sizeof numbers);
    return header + std::string(xml_bytes, 'x');
}

class MemoryFileTest : public testing::Test {
  protected:
    void write(const std::string& content) const {
        std::ofstream(directory_ / "m", std::ios::binary | std::ios::trunc) << content;
    }
    /// From where its reader reads on.
    [[nodiscard]] std::string read() const {
        const MemoryStream opened = open_memory(directory_.path(), "m");
        std::string content(opened.bytes + 1, '\0');
        content.resize(static_cast<std::size_t>(::read(opened.fd.get(), content.data(), content.size())));
        EXPECT_EQ(content.size(), opened.bytes);
        return content;
    }
    void refuses(ErrorCode code, const std::string& part, const std::string& content) const {
        SCOPED_TRACE(part);
        write(content);
        expect_error(code, {part, directory_ / "m"}, [&] { (void)open_memory(directory_.path(), "m"); });
    }

    TemporaryDirectory directory_;
};

TEST_F(MemoryFileTest, IsReadFromWhereTheStreamBegins) {
    write(stream);
    EXPECT_EQ(read(), stream);
    for (const std::uint32_t version : {1u, 2u}) {
        write(libvirt_header("LibvirtQemudSave", version, 0, 5000) + stream);
        EXPECT_EQ(read(), stream) << "behind libvirt's header of version " << version;
    }
}

TEST_F(MemoryFileTest, NothingElseIsTaken) {
    refuses(ErrorCode::corrupt_image, "holds no memory", "");
    refuses(ErrorCode::corrupt_image, "holds no memory", "QEVM");
    refuses(ErrorCode::corrupt_image, "holds no memory", "another file");
    refuses(ErrorCode::corrupt_image, "holds no memory", std::string("QEVM\0\0\0\2", 8) + "old");
    refuses(ErrorCode::corrupt_image, "holds no memory", libvirt_header("LibvirtQemudSave", 2, 0, 100));
    refuses(ErrorCode::corrupt_image, "not written to its end",
            libvirt_header("LibvirtQemudPart", 2, 0, 100) + stream);
    refuses(ErrorCode::unsupported, "version 3", libvirt_header("LibvirtQemudSave", 3, 0, 100) + stream);
    refuses(ErrorCode::unsupported, "compressed", libvirt_header("LibvirtQemudSave", 2, 1, 100) + stream);
    // A length that leads out of the file.
    std::string header = libvirt_header("LibvirtQemudSave", 2, 0, 100) + stream;
    std::memset(header.data() + 20, 0xff, 4);
    refuses(ErrorCode::corrupt_image, "holds no memory", header);
}

TEST_F(MemoryFileTest, OnlyARegularFileOfThePoolIsOpened) {
    expect_error(ErrorCode::not_found, {"m"}, [&] { (void)open_memory(directory_.path(), "m"); });
    std::filesystem::create_directory(directory_ / "m");
    expect_error(ErrorCode::unsafe_image, {"regular"}, [&] { (void)open_memory(directory_.path(), "m"); });
    std::filesystem::remove(directory_ / "m");
    std::ofstream(directory_ / "elsewhere", std::ios::binary) << stream;
    std::filesystem::create_symlink(directory_ / "elsewhere", directory_ / "m");
    EXPECT_THROW((void)open_memory(directory_.path(), "m"), Error);
    EXPECT_THROW((void)open_memory_to_write(directory_.path(), "m", mib), Error);
    EXPECT_THROW((void)open_memory(directory_.path(), "../m"), Error);
}

TEST_F(MemoryFileTest, IsSeenOpenInAProcess) {
    write(stream);
    EXPECT_FALSE(has_open(::getpid(), directory_.path(), "m"));
    {
        const UniqueFd open = open_memory_to_write(directory_.path(), "m", mib);
        EXPECT_TRUE(has_open(::getpid(), directory_.path(), "m"));
    }
    EXPECT_FALSE(has_open(::getpid(), directory_.path(), "m"));
    EXPECT_FALSE(has_open(::getpid(), directory_.path(), "not there"));
    EXPECT_EQ(flush_memory(directory_.path(), "m"), stream.size());
    EXPECT_EQ(file_bytes(directory_.path(), "m"), stream.size());
}

TEST_F(MemoryFileTest, HasRoomForEveryPage) {
    constexpr std::uint64_t gib = std::uint64_t{1} << 30;
    EXPECT_GT(memory_room(gib), gib + gib / 4096 * 8);
    EXPECT_LT(memory_room(gib), gib + gib / 16);
}

}  // namespace
}  // namespace volchain::storage::memory_file_test
