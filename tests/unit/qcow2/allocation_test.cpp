// SPDX-License-Identifier: MIT
#include "qcow2/allocation.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "support.h"

namespace volchain::qcow2::allocation_test {
namespace {

bool file_has_data(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const FileSource source(fd.get());
    return has_data(source, read_header(source));
}

TEST(Allocation, NewImagesHaveNone) {
    const TemporaryDirectory directory;
    create(directory / "base", "1G");
    run_well({"qemu-io", "-c", "write 0 64k", directory / "base"});
    create(directory / "top", "", "", {"-b", "base", "-F", "qcow2"});
    EXPECT_FALSE(file_has_data(directory / "top"));
    EXPECT_TRUE(file_has_data(directory / "base"));
    for (const char* options : {"compat=0.10", "cluster_size=512", "extended_l2=on"}) {
        create(directory / "image", "1G", options);
        EXPECT_FALSE(file_has_data(directory / "image")) << options;
    }
    create(directory / "empty", "0");
    EXPECT_FALSE(file_has_data(directory / "empty"));
}

TEST(Allocation, AnythingWrittenIsData) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    for (const char* command :
         {"write 0 512", "write -z 0 64k", "write -c 0 64k", "write 1023M 1M", "discard 0 64k"}) {
        create(path, "1G", "", {"-u", "-b", "null-co://", "-F", "raw"});
        run_well({"qemu-io", "-c", command, path});
        EXPECT_TRUE(file_has_data(path)) << command;
    }
    create(path, "1G", "preallocation=metadata");
    EXPECT_TRUE(file_has_data(path));
}

TEST(Allocation, TheLastEntryOfALargeL1TableCounts) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "100T");  // 1.6 MB of L1 table
    EXPECT_FALSE(file_has_data(path));
    run_well({"qemu-io", "-c", "write 109951162776576 1k", path});
    EXPECT_TRUE(file_has_data(path));
}

}  // namespace
}  // namespace volchain::qcow2::allocation_test
