// SPDX-License-Identifier: MIT
//
// The verb that all nouns share.
#pragma once

#include "client/session.h"

namespace volchain::client {

/// All properties of the object that the first argument names, of the kind that the verb's noun says.
async::Task<> show_object(Session& session, Arguments arguments);

}  // namespace volchain::client
