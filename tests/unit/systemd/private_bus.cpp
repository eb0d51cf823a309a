// SPDX-License-Identifier: MIT
#include "private_bus.h"

#include <unistd.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "async/deadline.h"
#include "async/one_shot.h"
#include "base/error.h"

namespace volchain::bus {
namespace {

namespace asio = boost::asio;

constexpr const char* configuration = R"(<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={0}/socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
    <allow send_destination="org.volchain1"/>
  </policy>
  <policy user="{1}">
    <allow own="org.volchain1"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
</busconfig>
)";

std::filesystem::path make_directory() {
    std::string name = (std::filesystem::temp_directory_path() / "volchain-bus-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw system_error(errno, "cannot make a directory for a bus");
    std::filesystem::permissions(name, std::filesystem::perms(0755));  // other users come in
    std::ofstream(name + "/bus.conf") << fmt::format(configuration, name, ::geteuid());
    return name;
}

async::Command as_command(std::vector<std::string> arguments) {
    return async::Command(std::move(arguments));
}

}  // namespace

async::Task<std::unique_ptr<PrivateBus>> PrivateBus::start() {
    const async::Executor executor = co_await asio::this_coro::executor;
    std::filesystem::path directory = make_directory();
    const std::string config = "--config-file=" + (directory / "bus.conf").string();
    async::Process daemon = async::Process::start(
        executor,
        as_command({"/usr/bin/dbus-daemon", config, "--nofork", "--nopidfile", "--print-address=1"}));
    std::string address;
    auto line =
        asio::async_read_until(daemon.output(), asio::dynamic_buffer(address), '\n', asio::use_awaitable);
    (void)co_await async::with_deadline(std::move(line), soon(), "the address of the private bus");
    std::unique_ptr<PrivateBus> bus(new PrivateBus(executor, std::move(directory), std::move(daemon)));
    co_return bus;
}

PrivateBus::PrivateBus(async::Executor executor, std::filesystem::path directory, async::Process daemon)
    : executor_(std::move(executor)),
      directory_(std::move(directory)),
      daemon_(std::move(daemon)),
      address_("unix:path=" + (directory_ / "socket").string()) {
    (void)::setenv("DBUS_SYSTEM_BUS_ADDRESS", address_.c_str(), 1);
}

PrivateBus::~PrivateBus() {
    (void)::unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
    kill();
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
}

std::unique_ptr<Connection> PrivateBus::connect(uid_t user) {
    struct As {
        explicit As(uid_t wanted) : before(::geteuid()) {
            if (wanted != 0 && ::seteuid(wanted) < 0) throw system_error(errno, "cannot become another user");
        }
        As(const As&) = delete;
        As& operator=(const As&) = delete;
        ~As() { (void)!::seteuid(before); }
        uid_t before;
    };
    const As as(user);
    return std::unique_ptr<Connection>(new Connection(Connection::open_system(executor_)));
}

async::Task<async::RunResult> PrivateBus::busctl(std::vector<std::string> arguments, uid_t user) {
    std::vector<std::string> argv{"/usr/bin/busctl", "--address=" + address_};
    for (std::string& argument : arguments) argv.push_back(std::move(argument));
    async::Command command(std::move(argv));
    if (user != 0) command.identity = async::Identity{user, user};
    co_return co_await async::run_process(std::move(command), soon());
}

async::Task<std::unique_ptr<async::Process>> PrivateBus::start_mock_polkit() {
    const auto connection = connect();
    async::OneShot<bool> ready;
    const Subscription watch =
        connection->watch_name("org.freedesktop.PolicyKit1", [&ready](const std::string& owner) {
            if (!owner.empty()) (void)ready.deliver(true);
        });
    auto process = std::make_unique<async::Process>(async::Process::start(
        executor_, as_command({"/usr/bin/env", "DBUS_SYSTEM_BUS_ADDRESS=" + address_, "/usr/bin/python3",
                               "-m", "dbusmock", "--system", "--template", "polkitd"})));
    (void)co_await ready.wait(soon(), "the mock of polkit");
    co_return process;
}

}  // namespace volchain::bus
