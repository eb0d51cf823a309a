// SPDX-License-Identifier: MIT
//
// A small service of the shape of the daemon: a manager and a family of things, with one of everything that
// an interface can have; a gate that the test controls; and a client on a connection of its own.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "async/condition.h"
#include "private_bus.h"
#include "systemd/objects.h"
#include "systemd/options.h"
#include "systemd/polkit.h"
#include "systemd/proxy.h"

namespace volchain::bus {

inline constexpr std::uint64_t seven = 7;
inline const std::string root_path = "/org/volchain1";
inline const std::string thing_prefix = "/org/volchain1/thing";
inline const std::string thing_interface = "org.volchain1.Thing";
inline const std::string manager_interface = "org.volchain1.Manager";

class TestGate : public Gate {
  public:
    async::Task<> authorize(Call call) override;

    std::vector<std::string> passed;  // what was asked
    std::exception_ptr refusal;       // thrown where set
    bool hold = false;                // waits until this is false
    Polkit* polkit = nullptr;         // asked where set
    async::Condition changed;
};

class Things {
  public:
    async::Task<ObjectPath> resize(Call call, Uuid id, std::uint64_t size, Options options);
    async::Task<std::tuple<std::string, std::pair<std::string, std::string>, Dict>> state(Call call, Uuid id);
    /// Throws Error with this code.
    async::Task<> fail(Call call, Uuid id, std::string code, std::string text);
    async::Task<> fail_strangely(Call call, Uuid id);
    async::Task<std::uint32_t> who(Call call, Uuid id);
    /// Answers when release() is called.
    async::Task<> block(Call call, Uuid id);
    async::Task<> wait(Call call, Uuid id) { return block(std::move(call), id); }
    async::Task<UnixFd> open(Call call, Uuid id);

    [[nodiscard]] std::uint64_t size(Uuid id) const { return sizes.at(id); }
    [[nodiscard]] std::string name(Uuid) const {
        return broken_name ? throw Error(ErrorCode::internal, "no name") : thing_name;
    }
    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::uint64_t allocated(Uuid) const { return 1; }
    [[nodiscard]] std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>> bitmaps(Uuid) const {
        return {};
    }

    void release();
    /// Returns when so many calls are blocked.
    async::Task<> reach_blocked(int count);

    std::map<Uuid, std::uint64_t> sizes;
    std::string thing_name = "thing";
    bool broken_name = false;
    int blocked = 0;
    bool released = false;
    async::Condition changed;
    Objects* objects = nullptr;
};

class Manager {
  public:
    async::Task<std::string> greet(Call call, std::string name);

    [[nodiscard]] std::string version() const { return "0.1"; }
};

class ThingService {
  public:
    explicit ThingService(PrivateBus& bus, Limits limits = Limits());

    /// Takes the bus name; calls can come in.
    async::Task<> begin();
    async::Task<> end() { return objects.stop(); }

    Uuid add_thing(std::uint64_t size);
    /// A client's view.
    [[nodiscard]] Proxy thing(Uuid id) const;
    [[nodiscard]] Proxy manager() const;

    std::unique_ptr<Connection> connection;
    std::unique_ptr<Connection> client;
    TestGate gate;
    Things things;
    Manager the_manager;
    Objects objects;
};

}  // namespace volchain::bus
