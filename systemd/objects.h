// SPDX-License-Identifier: MIT
//
// Objects: the objects that the daemon shows on the bus, beneath one root with an ObjectManager. One of its
// kind, at a fixed path (the Manager); or a family, /root/disk/<id>, all alike. The objects of a family live
// elsewhere: the family is told how to find out whether one exists and how to list them. Nothing is registered
// for the single object, so nothing can be stale.
//
// Method calls go through Requests (gate, limits, replies). Property reads and introspection are answered at
// once and pass no gate: nothing secret is a property. A getter that throws costs its property alone: that is
// missing in GetAll, GetManagedObjects and InterfacesAdded, and an error where it is asked for by its name.
// Signals leave in the order in which things were said here, the changes of properties of one turn together,
// and before the replies that follow.
#pragma once

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "systemd/requests.h"
#include "systemd/vtable.h"

namespace volchain::bus {

class Objects {
  public:
    /// What all objects beneath one prefix have in common. The functions look at what is in memory; they do
    /// not throw.
    struct Family {
        Family(std::string path_prefix, std::function<bool(Uuid)> does_exist,
               std::function<std::vector<Uuid>()> all)
            : prefix(std::move(path_prefix)), exists(std::move(does_exist)), list(std::move(all)) {}
        std::string prefix;  // "/org/volchain1/disk"
        std::function<bool(Uuid)> exists;
        std::function<std::vector<Uuid>()> list;
    };

    Objects(Connection& connection, const std::string& root, Gate& gate, Limits limits = Limits());
    Objects(const Objects&) = delete;
    Objects& operator=(const Objects&) = delete;
    /// stop() must have been awaited.
    ~Objects();

    /// All registering is done before the bus name is taken.
    void add(const std::string& path, InterfaceTable table);
    void add_family(Family family, std::vector<InterfaceTable> tables);

    /// Refuses new calls, cancels the running ones where they wait, returns when all are answered.
    async::Task<> stop() { return requests_.stop(); }

    /// A property has a new value: PropertiesChanged at the end of this turn of the event loop, one signal
    /// for each object and interface, with the values as they are then. Nothing for a property that is
    /// Change::silent.
    void changed(const std::string& path, const std::string& interface, const std::string& property);
    /// The same for whoever does not know which property it was: looks at all of the object's, and tells of those that
    /// are not what they were at the last compare(), remember() or added().
    void compare(const std::string& path);
    /// Notes what the properties are, and tells nobody: for objects that are there when the name is taken.
    void remember(const std::string& path);
    /// Is called before a reply leaves: whoever collects changes for the end of the turn tells of them now, so that a
    /// caller hears first what its call has changed, and then that it has.
    void before_replies(std::function<void()> settle) { settle_ = std::move(settle); }

    /// An object of a family came (it exists already) or went (it may or may not exist still).
    void added(const std::string& path);
    void removed(const std::string& path);
    /// A signal that is declared in the interface's table.
    template <typename... T>
    void emit(const std::string& path, const std::string& interface, const std::string& member,
              const T&... values) {
        Message message = make_signal(path, interface, member, body_signature<std::tuple<T...>>.view());
        (append(message, values), ...);
        send_signal(message);
    }

    struct MethodName {
        std::string interface;
        std::string member;
        auto operator<=>(const MethodName&) const = default;
    };
    /// Every method that can be called, so that a test can hold the table of authorizations against it.
    [[nodiscard]] std::set<MethodName> methods() const;

  private:
    struct Kin;
    struct Registration;
    /// By interface and property.
    using Values = std::map<std::pair<std::string, std::string>, Variant>;

    /// The family that a path belongs to, and the id in it; null for an object that is one of its kind.
    [[nodiscard]] Kin* kin_of(const std::string& path, Uuid& id);
    /// The interfaces of an object, with its id; none where there is no such object.
    [[nodiscard]] std::vector<const Registration*> registrations_of(const std::string& path, Uuid& id);
    [[nodiscard]] const InterfaceTable& table(const std::string& interface) const;

    /// None, and a word in the log, where the getter throws.
    [[nodiscard]] std::optional<Variant> value_of(const Registration& registration,
                                                  const InterfaceTable::Property& property, Uuid id);
    void append_properties(Message& message, const Registration& registration, Uuid id);
    void append_interfaces(Message& message, const std::vector<const Registration*>& registrations, Uuid id);
    /// Sees every message before sd-bus does, and answers those that ask for many properties.
    static int answer(sd_bus_message* message, void* self, sd_bus_error* error) noexcept;
    [[nodiscard]] bool answer_get_all(const Message& call);
    [[nodiscard]] bool answer_managed_objects(const Message& call);
    void append_managed_objects(Message& reply);

    [[nodiscard]] Message make_signal(const std::string& path, const std::string& interface,
                                      const std::string& member, std::string_view types) const;
    void send_signal(const Message& message);
    [[nodiscard]] Values values_of(const std::string& path);
    void flush_changes();
    void tell_changed(const std::string& path, const std::string& interface,
                      const std::set<std::string>& properties);
    /// Sends what `compose` makes. What cannot be told is a matter for the log, not for whoever changed it.
    void tell(const std::string& path, const std::function<Message()>& compose) noexcept;

    Connection& connection_;
    std::string root_;
    std::list<Kin> kin_;
    std::list<Registration> registrations_;
    Slot manager_;
    Slot queries_;
    /// Getters that were complained of.
    std::set<std::string> failing_;
    /// Object path and interface; the properties that changed.
    std::map<std::pair<std::string, std::string>, std::set<std::string>> changes_;
    std::map<std::string, Values> remembered_;
    std::function<void()> settle_;
    /// For the posted flush: it has nothing to do where this has gone.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
    Requests requests_;
};

}  // namespace volchain::bus
