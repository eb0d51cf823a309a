// SPDX-License-Identifier: MIT
//
// ImageServer: an image of a backup, and the images that it stands on, in a qemu-storage-daemon that shows it over NBD to
// this process alone. What stands on what is said by the caller and not by the images' headers, and the daemon may touch
// these files and no others. It ends with this object at the latest; stop() is the orderly way, after which the image is
// closed and complete.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "async/process.h"
#include "base/unique_fd.h"

namespace volchain::client {

class ImageServer {
  public:
    /// `files`: the bottom first; qcow2. The topmost is shown, for writing where that is wanted. `what`: for messages.
    static async::Task<std::unique_ptr<ImageServer>> start(std::vector<std::string> files, bool writable,
                                                           std::string what);
    ImageServer(const ImageServer&) = delete;
    ImageServer& operator=(const ImageServer&) = delete;
    ~ImageServer();

    /// The name that a client asks for.
    static constexpr const char* export_name = "image";
    /// A connection; the server takes it when it is ready.
    [[nodiscard]] UniqueFd connect() const;
    /// Nobody connects any more: a server that has ended is noticed by who waits for an answer from it.
    void close_listening();

    /// Throws what it has said where it does not end well. Connections should be gone.
    async::Task<> stop();
    /// What it said last, where it has ended by itself: better than "connection reset". Empty where it runs.
    async::Task<std::string> last_words();

  private:
    class Socket;
    ImageServer(std::unique_ptr<Socket> socket, async::Process process, std::string what);

    std::unique_ptr<Socket> socket_;
    async::Process process_;
    std::string what_;
};

}  // namespace volchain::client
