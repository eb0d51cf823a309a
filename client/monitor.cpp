// SPDX-License-Identifier: MIT
#include "client/monitor.h"

#include <fmt/format.h>

#include <deque>
#include <tuple>

#include "async/condition.h"
#include "base/text.h"
#include "base/timestamp.h"
#include "client/properties.h"

namespace volchain::client {
namespace {

using Interfaces = std::map<std::string, bus::Dict>;
using Added = std::tuple<bus::ObjectPath, Interfaces>;
using Removed = std::tuple<bus::ObjectPath, std::vector<std::string>>;
using Changed = std::tuple<std::string, bus::Dict, std::vector<std::string>>;
using Finished = std::tuple<bus::ObjectPath, std::string, bus::ObjectPath, std::string>;

class Monitor {
  public:
    explicit Monitor(Session& session) : session_(session) {}

    /// Ends with the bus, by an exception.
    async::Task<> run() {
        session_.bus().on_lost([this](std::string reason) {
            lost_ = std::move(reason);
            woken_.notify();
        });
        subscribe();
        // Where the daemon does not run this says so, or starts it.
        objects_ = co_await session_.objects();
        session_.output().note("Watching; ^C ends it.");
        watching_ = true;
        while (lost_.empty()) {
            if (std::exchange(read_again_, false)) co_await read_again();
            while (!messages_.empty()) {
                const bus::Message message = std::move(messages_.front());
                messages_.pop_front();
                handle(message);
            }
            if (lost_.empty() && !read_again_)
                co_await woken_.wait(async::no_deadline, "something to happen");
        }
        throw Error(ErrorCode::unreachable, lost_);
    }

  private:
    void subscribe() {
        const std::string rule =
            fmt::format("type='signal',sender='{}',path_namespace='{}'", service_name, root_path);
        signals_ = session_.bus().subscribe(rule, [this](bus::Message message) {
            messages_.push_back(std::move(message));
            woken_.notify();
        });
        owner_ =
            session_.bus().watch_name(service_name, [this](const std::string& owner) { owner_is(owner); });
    }

    void owner_is(const std::string& owner) {
        const bool was_there = std::exchange(there_, !owner.empty());
        if (!watching_ || was_there == there_) return;
        tell(there_ ? "started" : "stopped", there_ ? "volchaind has started" : "volchaind has ended", {},
             {});
        read_again_ = there_;
        woken_.notify();
    }

    async::Task<> read_again() {
        std::exception_ptr failure;
        co_await async::keep_result(session_.objects(), objects_, failure);
        // It may have ended again meanwhile, which owner_is() tells.
        if (failure && to_error(failure).code() != ErrorCode::unreachable) std::rethrow_exception(failure);
    }

    void handle(const bus::Message& message) {
        const std::string member = message.member();
        if (member == "InterfacesAdded")
            added(bus::read_body<Added>(message));
        else if (member == "InterfacesRemoved")
            removed(bus::read_body<Removed>(message));
        else if (member == "PropertiesChanged")
            changed(bus::ObjectPath(message.path()), bus::read_body<Changed>(message));
        else if (member == "JobFinished")
            finished(bus::read_body<Finished>(message));
    }

    void added(const Added& signal) {
        const auto& [path, interfaces] = signal;
        objects_.add(path, interfaces);
        if (const Object* object = objects_.find(path))
            tell("added", described(path) + " added", path, object->properties);
    }

    void removed(const Removed& signal) {
        const bus::ObjectPath& path = std::get<0>(signal);
        if (objects_.find(path) == nullptr) return;
        tell("removed", described(path) + " removed", path, {});
        objects_.remove(path);
    }

    void changed(const bus::ObjectPath& path, const Changed& signal) {
        const bus::Dict& properties = std::get<1>(signal);
        objects_.change(path, properties);
        if (objects_.find(path) == nullptr || properties.empty()) return;
        std::vector<std::string> parts;
        const NameOf name_of = names_in(objects_);
        for (const auto& [name, value] : properties)
            parts.push_back(fmt::format("{} {}", label_of(name), cell_of(name, value, name_of).brief()));
        tell("changed", fmt::format("{}: {}", described(path), joined(parts, ", ")), path, properties);
    }

    void finished(const Finished& signal) {
        const auto& [job, kind, subject, state] = signal;
        bus::Dict properties;
        properties.emplace("Kind", kind);
        properties.emplace("Subject", subject);
        properties.emplace("State", state);
        tell("finished", fmt::format("{} ended: {}", described(job), state), job, properties);
    }

    /// "vm web", "job 64c0ffee (create-snapshot)".
    [[nodiscard]] std::string described(const bus::ObjectPath& path) const {
        const Object* object = objects_.find(path);
        const std::string kind = kind_of(path);
        if (object != nullptr && !object->name().empty())
            return fmt::format("{} {}", kind, printable(object->name()));
        const std::string what = object == nullptr ? "" : object->text("Kind");
        return fmt::format("{} {}{}", kind, short_id(id_of(path)),
                           what.empty() ? "" : fmt::format(" ({})", what));
    }

    void tell(const char* event, const std::string& text, const bus::ObjectPath& path,
              const bus::Dict& properties) {
        const std::uint64_t time = to_usec(now());
        if (!session_.output().json()) {
            session_.output().print_line(fmt::format("{} {}", Cell::time(time).brief(), text));
            return;
        }
        OrderedJson line;
        line["time_usec"] = time;
        line["event"] = event;
        if (!path.none()) {
            const OrderedJson object = Cell::object(kind_of(path), id_of(path), objects_.name(path)).json();
            line.update(object);
            line["properties"] = sheet_of(properties, names_in(objects_)).json();
        }
        session_.output().print_json_line(line);
    }

    Session& session_;
    Objects objects_;
    std::deque<bus::Message> messages_;
    async::Condition woken_;
    bool watching_ = false;
    bool there_ = false;
    bool read_again_ = false;
    std::string lost_;
    bus::Subscription signals_;
    bus::Subscription owner_;
};

}  // namespace

async::Task<> monitor(Session& session, Arguments) {
    Monitor watcher(session);
    co_await watcher.run();
}

}  // namespace volchain::client
