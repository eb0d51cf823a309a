// SPDX-License-Identifier: MIT
//
// In the test guest: writes numbered records of 64 bytes to every mounted disk, one after the other, and says which are durable.
//
//   writer MILLISECONDS    which it pauses between records
//
//   /mnt/X/journal   each record is flushed (fdatasync) before the next disk has its turn
//   /mnt/X/dirty     the same, written before the journal's and never flushed: a freeze flushes them
//   the port org.volchain.test.ack: a line with the number of each record that is durable on all disks;
//                    "failed at N: why" where one could not be written, and that is the end
//
// A program of its own, not a script: under TCG each process that a script starts costs more than the record.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace {

constexpr std::size_t record_bytes = 64;

/// In the order of their names: a disk is never ahead of the one before it.
std::set<std::string> writable_mounts() {
    std::set<std::string> found;
    std::ifstream mounts("/proc/mounts");
    std::string line, device, directory, type, options;
    while (std::getline(mounts, line)) {
        std::istringstream(line) >> device >> directory >> type >> options;
        if (directory.rfind("/mnt/", 0) == 0 && options.rfind("rw", 0) == 0) found.insert(directory);
    }
    return found;
}

/// Opened anew for each record: what happens to the file system meanwhile is met here.
bool append(const std::string& path, const std::string& record, bool flush) {
    const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return false;
    bool done = write(fd, record.data(), record.size()) == static_cast<ssize_t>(record.size());
    if (done && flush) done = fdatasync(fd) == 0;
    const int error = errno;
    close(fd);
    errno = error;
    return done;
}

std::string record_of(long number) {
    const std::string digits = std::to_string(number);
    std::string record =
        "J " + std::string(10 - std::min<std::size_t>(10, digits.size()), '0') + digits + " ";
    record.append(record_bytes - 1 - record.size(), '.');
    return record + "\n";
}

bool write_record(const std::set<std::string>& mounts, long number) {
    const std::string record = record_of(number);
    for (const std::string& mount : mounts)
        if (!append(mount + "/dirty", record, false) || !append(mount + "/journal", record, true))
            return false;
    return true;
}

/// It goes on where it was before the guest was started anew.
long last_number(const std::string& mount) {
    struct stat status {};
    return stat((mount + "/journal").c_str(), &status) == 0
               ? status.st_size / static_cast<off_t>(record_bytes)
               : 0;
}

void say(int port, const std::string& line) {
    if (write(port, line.data(), line.size()) < 0) std::perror("the port org.volchain.test.ack");
}

}  // namespace

int main(int count, char** words) {
    const std::set<std::string> mounts = writable_mounts();
    const int port = open("/dev/virtio-ports/org.volchain.test.ack", O_WRONLY | O_CLOEXEC);
    if (count != 2 || mounts.empty() || port < 0) return 1;
    const auto pause = static_cast<useconds_t>(std::atoi(words[1]) * 1000);
    for (long number = last_number(*mounts.begin()) + 1;; ++number) {
        if (!write_record(mounts, number)) {
            say(port, "failed at " + std::to_string(number) + ": " + std::strerror(errno) + "\n");
            return 1;
        }
        say(port, std::to_string(number) + "\n");
        usleep(pause);
    }
}
