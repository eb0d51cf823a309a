// SPDX-License-Identifier: MIT
//
// The answers of Properties.GetAll and ObjectManager.GetManagedObjects. sd-bus would make them, too; but one
// getter that throws would fail them altogether, and a message that is too large for the bus would have us
// thrown off it.
#include <systemd/sd-bus.h>

#include "base/error.h"
#include "base/log.h"
#include "systemd/objects.h"
#include "systemd/registration.h"

namespace volchain::bus {
namespace {

Message reply_to(const Message& call) {
    sd_bus_message* reply = nullptr;
    const int result = sd_bus_message_new_method_return(call.get(), &reply);
    if (result < 0) throw system_error(-result, "cannot reply to " + call.name());
    return Message(reply);
}

bool is_call(sd_bus_message* message, const char* interface, const char* member, const char* types) {
    return sd_bus_message_is_method_call(message, interface, member) > 0 &&
           sd_bus_message_has_signature(message, types) > 0;
}

}  // namespace

std::optional<Variant> Objects::value_of(const Registration& registration,
                                         const InterfaceTable::Property& property, Uuid id) {
    try {
        return property.value(registration.table.object, id);
    } catch (...) {
        const std::string name = registration.table.name + "." + property.name;
        if (failing_.insert(name).second)
            log().warning("{} of {} cannot be shown: {}", name, id ? id.str() : registration.path,
                          to_error(std::current_exception()).what());
        return std::nullopt;
    }
}

void Objects::append_properties(Message& message, const Registration& registration, Uuid id) {
    message.open('a', "{sv}");
    for (const InterfaceTable::Property& property : registration.table.properties) {
        const auto value = value_of(registration, property, id);
        if (!value) continue;
        message.open('e', "sv");
        append(message, property.name);
        append(message, *value);
        message.close();
    }
    message.close();
}

void Objects::append_interfaces(Message& message, const std::vector<const Registration*>& registrations,
                                Uuid id) {
    message.open('a', "{sa{sv}}");
    for (const Registration* registration : registrations) {
        message.open('e', "sa{sv}");
        append(message, registration->table.name);
        append_properties(message, *registration, id);
        message.close();
    }
    message.close();
}

int Objects::answer(sd_bus_message* message, void* self, sd_bus_error* error) noexcept {
    try {
        auto& objects = *static_cast<Objects*>(self);
        if (is_call(message, "org.freedesktop.DBus.Properties", "GetAll", "s"))
            return objects.answer_get_all(Message::share(message)) ? 1 : 0;
        if (is_call(message, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", ""))
            return objects.answer_managed_objects(Message::share(message)) ? 1 : 0;
        return 0;
    } catch (...) {
        return fail(error);
    }
}

/// False: it is for another object or interface, and sd-bus knows what to say.
bool Objects::answer_get_all(const Message& call) {
    Reader reader(call);
    const auto interface = read<std::string>(reader);
    Uuid id;
    for (const Registration* registration : registrations_of(call.path(), id)) {
        if (registration->table.name != interface) continue;
        Message reply = reply_to(call);
        append_properties(reply, *registration, id);
        connection_.send(reply);
        return true;
    }
    if (sd_bus_message_rewind(call.get(), 1) < 0)
        throw Error(ErrorCode::internal, "cannot read GetAll again");
    return false;
}

bool Objects::answer_managed_objects(const Message& call) {
    if (call.path() != root_) return false;
    Message reply = reply_to(call);
    try {
        append_managed_objects(reply);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        throw Error(ErrorCode::unsupported,
                    "all objects together are more than fits into one message; Introspect lists the objects "
                    "of a kind, GetAll their properties");
    }
    connection_.send(reply);
    return true;
}

void Objects::append_managed_objects(Message& reply) {
    reply.open('a', "{oa{sa{sv}}}");
    for (Kin& kin : kin_) {
        std::vector<const Registration*> registrations;
        for (const Registration& registration : registrations_)
            if (registration.kin == &kin) registrations.push_back(&registration);
        for (const Uuid id : kin.family.list()) {
            reply.open('e', "oa{sa{sv}}");
            append(reply, object_path(kin.family.prefix, id));
            append_interfaces(reply, registrations, id);
            reply.close();
        }
    }
    reply.close();
}

}  // namespace volchain::bus
