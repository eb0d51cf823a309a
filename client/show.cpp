// SPDX-License-Identifier: MIT
#include "client/show.h"

#include "client/properties.h"

namespace volchain::client {

async::Task<> show_object(Session& session, Arguments arguments) {
    const std::string kind(arguments.verb().noun);
    const bus::ObjectPath path = co_await session.find(kind, arguments.at(0));
    const Objects objects = co_await session.objects();
    const Object* object = objects.find(path);
    if (object == nullptr)
        throw Error(ErrorCode::not_found, "the {} {} has just gone", kind, arguments.at(0));
    session.output().print(sheet_of(object->properties, names_in(objects)));
}

}  // namespace volchain::client
