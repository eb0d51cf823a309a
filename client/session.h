// SPDX-License-Identifier: MIT
//
// Session: one run of volchainctl: its output, its settings, and the daemon, to which it connects when the
// first verb asks it something. It lives in main() as long as the verb runs.
#pragma once

#include <memory>
#include <string>

#include "async/task.h"
#include "client/arguments.h"
#include "client/objects.h"
#include "client/output.h"
#include "systemd/proxy.h"

namespace volchain::client {

class PolkitAgent;

class Session {
  public:
    Session(async::Executor executor, const Settings& settings);
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session();

    [[nodiscard]] const Settings& settings() const noexcept { return settings_; }
    [[nodiscard]] Output& output() noexcept { return output_; }
    [[nodiscard]] const async::Executor& executor() const noexcept { return executor_; }

    /// Connects where that has not been done. Throws Unreachable, saying what to do.
    [[nodiscard]] bus::Connection& bus();
    /// For the answers of ordinary calls. Long enough for a password to be typed.
    [[nodiscard]] static async::Deadline soon();

    /// Of the object's own interface, which its path tells.
    [[nodiscard]] bus::Proxy proxy(const bus::ObjectPath& object);
    [[nodiscard]] bus::Proxy manager();

    /// Calls a method of an object, or of the manager, for which a password may be needed.
    template <typename Result = void, typename... Values>
    [[nodiscard]] async::Task<Result> call(const bus::ObjectPath& object, const std::string& method,
                                           const Values&... values) {
        start_agent();
        return proxy(object).call<Result>(method, soon(), values...);
    }
    template <typename Result = void, typename... Values>
    [[nodiscard]] async::Task<Result> call_manager(const std::string& method, const Values&... values) {
        start_agent();
        return manager().call<Result>(method, soon(), values...);
    }

    /// The object that the user means: what Manager.Find says, or the D-Bus path itself.
    [[nodiscard]] async::Task<bus::ObjectPath> find(std::string kind, std::string what);
    /// The same for several.
    [[nodiscard]] async::Task<std::vector<bus::ObjectPath>> find_all(std::string kind,
                                                                     std::vector<std::string> what);
    [[nodiscard]] async::Task<Objects> objects(async::Deadline deadline = soon());
    /// The object with its properties as they are now; where it has gone, without any.
    [[nodiscard]] async::Task<Object> object(bus::ObjectPath path);

  private:
    void start_agent();

    async::Executor executor_;
    Settings settings_;
    Output output_;
    std::unique_ptr<bus::Connection> bus_;
    std::unique_ptr<PolkitAgent> agent_;
};

/// What people are told of a failure: its text, and where the daemon or the bus is not there, what to do
/// about it.
[[nodiscard]] std::string explain(const std::exception_ptr& failure);

/// The options of a method, from those of the command line that were given, under the same names.
class MethodOptions {
  public:
    explicit MethodOptions(const Arguments& arguments) : arguments_(arguments) {}

    MethodOptions& text(const std::string& name);
    MethodOptions& size(const std::string& name);
    MethodOptions& flag(const std::string& name);
    /// As "<name>-usec".
    MethodOptions& duration(const std::string& name);
    /// The objects of a repeated option, looked up before; not given where there are none.
    MethodOptions& objects(const std::string& name, const std::vector<bus::ObjectPath>& all);
    MethodOptions& set(const std::string& name, bus::Variant value);

    [[nodiscard]] const bus::Dict& dict() const noexcept { return dict_; }

  private:
    const Arguments& arguments_;
    bus::Dict dict_;
};

}  // namespace volchain::client
