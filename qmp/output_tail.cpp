// SPDX-License-Identifier: MIT
#include "qmp/output_tail.h"

#include <boost/asio/buffer.hpp>

#include <string_view>

#include "base/error.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t kept = 4096;

}  // namespace

std::shared_ptr<OutputTail> OutputTail::read(async::asio::posix::stream_descriptor pipe) {
    std::shared_ptr<OutputTail> tail(new OutputTail(std::move(pipe)));
    tail->read_some();
    return tail;
}

void OutputTail::read_some() {
    pipe_.async_read_some(async::asio::buffer(buffer_),
                          [self = shared_from_this()](const auto& failure, std::size_t got) {
                              if (failure || self->ended_) return self->close();
                              self->text_.append(self->buffer_.data(), got);
                              if (self->text_.size() > 2 * kept)
                                  self->text_.erase(0, self->text_.size() - kept);
                              self->read_some();
                          });
}

std::string OutputTail::last(std::size_t bytes) const {
    std::string_view text = text_;
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.size() > bytes) text.remove_prefix(text.size() - bytes);
    return std::string(text);
}

void OutputTail::close() noexcept {
    ended_ = true;
    boost::system::error_code ignored;
    pipe_.close(ignored);
    end_.notify();
}

async::Task<> OutputTail::wait_end(async::Deadline deadline) {
    const auto self = shared_from_this();
    try {
        while (!ended_) co_await end_.wait(deadline, "the end of a program's output");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
    }
}

}  // namespace volchain::qmp
