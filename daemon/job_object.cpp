// SPDX-License-Identifier: MIT
#include "daemon/job_object.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<JobObject> JobObject::table() {
    bus::Interface<JobObject> table(interface_name(ObjectKind::job), *this);
    table.method<&JobObject::cancel>("Cancel", bus::in(), bus::out())
        .method<&JobObject::pause>("Pause", bus::in(), bus::out())
        .method<&JobObject::resume>("Resume", bus::in(), bus::out())
        .method<&JobObject::set_speed>("SetSpeed", bus::in("speed"), bus::out())
        .method<&JobObject::wait>("Wait", bus::in(), bus::out("state", "error", "result"),
                                  bus::Reply::deferred)
        .property<&JobObject::id>("Id", bus::Change::never)
        .property<&JobObject::kind>("Kind", bus::Change::never)
        .property<&JobObject::subject>("Subject", bus::Change::never)
        .property<&JobObject::state>("State", bus::Change::signalled)
        .property<&JobObject::step>("Step", bus::Change::signalled)
        .property<&JobObject::done>("DoneBytes", bus::Change::signalled)
        .property<&JobObject::total>("TotalBytes", bus::Change::signalled)
        .property<&JobObject::started>("StartedUsec", bus::Change::never)
        .property<&JobObject::finished>("FinishedUsec", bus::Change::signalled)
        .property<&JobObject::owner>("OwnerUid", bus::Change::never)
        .property<&JobObject::error>("Error", bus::Change::signalled)
        .property<&JobObject::result>("Result", bus::Change::signalled)
        .property<&JobObject::cancellable>("Cancellable", bus::Change::signalled)
        .property<&JobObject::speed>("SpeedBytes", bus::Change::signalled);
    return table;
}

const storage::JobRecord& JobObject::record(Uuid id) const {
    if (const storage::JobPtr job = engine_.jobs().find(id)) return job->record();
    return engine_.catalog().job(id);
}

storage::JobPtr JobObject::live(Uuid id) const {
    const storage::JobPtr job = engine_.jobs().find(id);
    if (!job)
        throw Error(ErrorCode::unsupported, "job {} ({}) has ended already", id.str(),
                    engine_.catalog().job(id).kind);
    return job;
}

async::Task<> JobObject::cancel(bus::Call, Uuid id) {
    live(id)->cancel();
    co_return;
}

async::Task<> JobObject::pause(bus::Call, Uuid id) {
    live(id)->pause();
    co_return;
}

async::Task<> JobObject::resume(bus::Call, Uuid id) {
    live(id)->resume();
    co_return;
}

async::Task<> JobObject::set_speed(bus::Call, Uuid id, std::uint64_t bytes_per_second) {
    live(id)->set_speed(bytes_per_second);
    co_return;
}

async::Task<std::tuple<std::string, TextPair, bus::Dict>> JobObject::wait(bus::Call, Uuid id) {
    if (const storage::JobPtr job = engine_.jobs().find(id)) co_await job->wait(async::no_deadline);
    const storage::JobRecord& end = engine_.catalog().job(id);
    co_return std::make_tuple(std::string(word(end.state)), error_pair(end.error), result_dict(end.result));
}

bus::ObjectPath JobObject::subject(Uuid id) const {
    const storage::ObjectId subject = record(id).subject;
    return object_path(subject.kind, subject.id);
}

std::uint64_t JobObject::speed(Uuid id) const {
    const storage::JobPtr job = engine_.jobs().find(id);
    return job ? job->speed() : 0;
}

bool JobObject::cancellable(Uuid id) const {
    const storage::JobPtr job = engine_.jobs().find(id);
    return job && job->cancellable();
}

}  // namespace volchain::daemon
