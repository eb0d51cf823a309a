// SPDX-License-Identifier: MIT
//
// Locks: who works on which object. One operation at a time on a VM and on a disk; everybody else is told at
// once, with the holder's name. Jobs are not waited for, and locks are not stored: after a restart recovery takes them
// again for the jobs that it finds.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "async/condition.h"
#include "storage/records/catalog.h"

namespace volchain::storage {

class Locks {
  public:
    /// What a set of objects is held by, until it goes out of scope.
    class [[nodiscard]] Held {
      public:
        Held() = default;
        Held(Held&& other) noexcept
            : locks_(std::exchange(other.locks_, nullptr)), objects_(std::move(other.objects_)) {}
        Held& operator=(Held&& other) noexcept {
            release();
            locks_ = std::exchange(other.locks_, nullptr);
            objects_ = std::move(other.objects_);
            return *this;
        }
        ~Held() { release(); }
        void release() noexcept;

      private:
        friend class Locks;
        Held(Locks& locks, std::vector<ObjectId> objects) : locks_(&locks), objects_(std::move(objects)) {}
        Locks* locks_ = nullptr;
        std::vector<ObjectId> objects_;
    };

    explicit Locks(const Catalog& catalog) : catalog_(catalog) {}

    /// Takes all of them or none. Busy where one is held: "VM 'web' (...) is busy: create-snapshot, job ..."; also of a disk that
    /// a backup holds as it is, whose own operations do without its lock.
    /// `holder` is how others are told of the owner; `job`: nil where it is none.
    Held take(std::vector<ObjectId> objects, std::string holder, const Uuid& job);

    /// The same of one object for what is no job; a holder that is no job either (the daemon looks at the disks of a VM whose
    /// QEMU has come) is waited for until the deadline, then Busy.
    async::Task<Held> take_when_seen_to(ObjectId object, std::string holder, async::Deadline deadline);

    /// The job that holds an object; nil where it is free or held by something that is no job.
    [[nodiscard]] Uuid job_holding(const ObjectId& object) const;
    [[nodiscard]] bool held(const ObjectId& object) const;

    /// Called when an object was taken or released, in the event loop. One at most.
    void watch(std::function<void(ObjectId)> watcher) { watcher_ = std::move(watcher); }

  private:
    struct Holder {
        std::string text;
        Uuid job;
    };
    using Key = std::pair<ObjectKind, Uuid>;
    static Key key(const ObjectId& object) { return {object.kind, object.id}; }
    void release(const std::vector<ObjectId>& objects) noexcept;

    const Catalog& catalog_;
    std::map<Key, Holder> held_;
    async::Condition released_;
    std::function<void(ObjectId)> watcher_;
};

}  // namespace volchain::storage
