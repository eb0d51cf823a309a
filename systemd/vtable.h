// SPDX-License-Identifier: MIT
//
// Interface: what a D-Bus interface consists of, in one table, and the object of C++ that serves it:
//
//     bus::Interface<Disks> table("org.volchain1.Disk", disks);
//     table.method<&Disks::resize>("Resize", bus::in("size", "options"), bus::out("job"))
//         .property<&Disks::size>("SizeBytes", bus::Change::signalled)
//         .signal<std::string>("Grown", bus::out("why"));
//
// Types on the wire follow from the C++ types, so code and interface cannot disagree. A method is a coroutine
//     async::Task<R> resize(bus::Call call, Uuid id, A... arguments)
// where R is void, one value, or a tuple of several; a property is a const function R size(Uuid id) that
// answers at once. An object that is one of its kind has no id: leave that parameter out. Tables are given to
// Objects (objects.h), which serves them; the object that serves an interface outlives it.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "async/task.h"
#include "base/uuid.h"
#include "systemd/call.h"
#include "systemd/marshal.h"
#include "systemd/variant.h"

namespace volchain::bus {

/// Names of arguments and results, for introspection.
template <std::size_t N>
struct Names {
    std::array<std::string_view, N> names;
};
template <typename... Name>
[[nodiscard]] constexpr Names<sizeof...(Name)> in(Name... names) {
    return {{std::string_view(names)...}};
}
template <typename... Name>
[[nodiscard]] constexpr Names<sizeof...(Name)> out(Name... names) {
    return {{std::string_view(names)...}};
}

/// How a property tells that it changed: org.freedesktop.DBus.Property.EmitsChangedSignal.
enum class Change {
    never,        // const
    signalled,    // PropertiesChanged with the value
    invalidated,  // PropertiesChanged without the value
    silent,       // changes, and nobody is told
};

/// How long a call may stay open.
enum class Reply {
    prompt,    // as soon as the work is done
    deferred,  // when something happens, maybe in hours: there may be many of one caller
};

/// The table without its types: what Objects works with.
class InterfaceTable {
  public:
    struct Method {
        std::string name;
        std::string arguments;  // D-Bus types
        std::string results;
        std::string names;  // of both, each followed by NUL
        Reply reply;
        bool takes_id;
        async::Task<Message> (*run)(void* object, Call call);
    };
    struct Property {
        std::string name;
        std::string type;
        Change change;
        bool takes_id;
        void (*get)(void* object, Uuid id, Message& reply);
        Variant (*value)(void* object, Uuid id);  // the same, to be kept and compared
    };
    struct Signal {
        std::string name;
        std::string types;
        std::string names;
    };

    std::string name;
    void* object;
    std::vector<Method> methods;
    std::vector<Property> properties;
    std::vector<Signal> signals;

  protected:
    InterfaceTable(std::string interface_name, void* served_by)
        : name(std::move(interface_name)), object(served_by) {}
};

namespace detail {

template <typename T>
struct MethodType {
    static_assert(unsupported<T>,
                  "a method is async::Task<R> (Object::*)(Call, [Uuid,] arguments by value...)");
};
template <typename C, typename R, typename... A>
struct MethodType<async::Task<R> (C::*)(Call, A...)> {
    using Result = R;
    using Arguments = std::tuple<A...>;
    static constexpr bool takes_id = false;
};
template <typename C, typename R, typename... A>
struct MethodType<async::Task<R> (C::*)(Call, Uuid, A...)> {
    using Result = R;
    using Arguments = std::tuple<A...>;
    static constexpr bool takes_id = true;
};

template <typename R>
struct Results {
    using Tuple = std::conditional_t<std::is_void_v<R>, std::tuple<>,
                                     std::conditional_t<is_argument_list<R>, R, std::tuple<R>>>;
};

template <std::size_t N>
void add_names(std::string& all, const Names<N>& names) {
    for (const std::string_view name : names.names) all.append(name).push_back('\0');
}

/// The start of a handler, in a function that is no coroutine: see HACKING.md about what may stand beside
/// co_await.
template <auto Member, typename Object>
auto start(Object& object, const Call& call, typename MethodType<decltype(Member)>::Arguments arguments) {
    return std::apply(
        [&object, &call](auto&... argument) {
            if constexpr (MethodType<decltype(Member)>::takes_id)
                return (object.*Member)(call, call.object(), std::move(argument)...);
            else
                return (object.*Member)(call, std::move(argument)...);
        },
        arguments);
}

template <auto Member, typename Object>
async::Task<Message> run_method(void* object, Call call) {
    using Type = MethodType<decltype(Member)>;
    using Result = typename Type::Result;
    auto arguments = read_body<typename Type::Arguments>(call.message());
    async::Task<Result> task = start<Member>(*static_cast<Object*>(object), call, std::move(arguments));
    Message reply;
    if constexpr (std::is_void_v<Result>) {
        co_await std::move(task);
        reply = call.make_reply();
    } else {
        const Result result = co_await std::move(task);
        reply = call.make_reply();
        if constexpr (is_argument_list<Result>)
            std::apply([&reply](const auto&... value) { (append(reply, value), ...); }, result);
        else
            append(reply, result);
    }
    co_return reply;
}

template <auto Member, typename Object>
void get_property(void* object, Uuid id, Message& reply) {
    const Object& typed = *static_cast<const Object*>(object);
    if constexpr (std::is_invocable_v<decltype(Member), const Object&, Uuid>)
        append(reply, std::invoke(Member, typed, id));
    else
        append(reply, std::invoke(Member, typed));
}

template <auto Member, typename Object>
Variant property_value(void* object, Uuid id) {
    const Object& typed = *static_cast<const Object*>(object);
    if constexpr (std::is_invocable_v<decltype(Member), const Object&, Uuid>)
        return Variant(std::invoke(Member, typed, id));
    else
        return Variant(std::invoke(Member, typed));
}

}  // namespace detail

template <typename Object>
class Interface : public InterfaceTable {
  public:
    Interface(std::string interface_name, Object& served_by)
        : InterfaceTable(std::move(interface_name), &served_by) {}

    template <auto Member, std::size_t In, std::size_t Out>
    Interface& method(std::string_view member, const Names<In>& arguments, const Names<Out>& results,
                      Reply reply = Reply::prompt) {
        using Type = detail::MethodType<decltype(Member)>;
        using Results = typename detail::Results<typename Type::Result>::Tuple;
        static_assert(In == std::tuple_size_v<typename Type::Arguments>, "one name for each argument");
        static_assert(Out == std::tuple_size_v<Results>, "one name for each result");
        std::string names;
        detail::add_names(names, arguments);
        detail::add_names(names, results);
        methods.push_back({std::string(member), body_signature<typename Type::Arguments>.c_str(),
                           body_signature<Results>.c_str(), std::move(names), reply, Type::takes_id,
                           detail::run_method<Member, Object>});
        return *this;
    }

    template <auto Member>
    Interface& property(std::string_view member, Change change) {
        constexpr bool takes_id = std::is_invocable_v<decltype(Member), const Object&, Uuid>;
        using Value = std::remove_cvref_t<typename decltype([] {
            if constexpr (takes_id)
                return std::invoke_result<decltype(Member), const Object&, Uuid>();
            else
                return std::invoke_result<decltype(Member), const Object&>();
        }())::type>;
        properties.push_back({std::string(member), signature<Value>.c_str(), change, takes_id,
                              detail::get_property<Member, Object>, detail::property_value<Member, Object>});
        return *this;
    }

    template <typename... T, std::size_t N>
    Interface& signal(std::string_view member, const Names<N>& arguments) {
        static_assert(N == sizeof...(T), "one name for each argument");
        std::string names;
        detail::add_names(names, arguments);
        signals.push_back({std::string(member), body_signature<std::tuple<T...>>.c_str(), std::move(names)});
        return *this;
    }
};

}  // namespace volchain::bus
