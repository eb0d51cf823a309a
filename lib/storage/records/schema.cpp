// SPDX-License-Identifier: MIT
#include "storage/records/schema.h"

#include <array>

#include "base/error.h"

namespace volchain::storage {
namespace {

// UUIDs are text, times microseconds since the epoch, nil UUIDs NULL. A migration is never changed once
// released; a new one is appended.
constexpr std::array migrations{
    R"sql(
CREATE TABLE pool (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

CREATE TABLE vm (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    qmp_socket TEXT NOT NULL,
    agent_socket TEXT NOT NULL,
    config TEXT NOT NULL,
    config_type TEXT NOT NULL,
    current_snapshot TEXT REFERENCES snapshot (id) DEFERRABLE INITIALLY DEFERRED,
    adopt INTEGER NOT NULL,
    foreign_manager INTEGER NOT NULL,
    -- Where a preview is shown; else NULL.
    preview TEXT REFERENCES snapshot (id) DEFERRABLE INITIALLY DEFERRED,
    preview_with_config INTEGER,
    former_config TEXT,
    former_config_type TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE disk (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    vm TEXT REFERENCES vm (id) DEFERRABLE INITIALLY DEFERRED,
    target TEXT NOT NULL,
    active TEXT NOT NULL REFERENCES volume (id) DEFERRABLE INITIALLY DEFERRED,
    former TEXT REFERENCES volume (id) DEFERRABLE INITIALLY DEFERRED,
    shareable INTEGER NOT NULL,
    node_options TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE volume (
    id TEXT PRIMARY KEY,
    disk TEXT NOT NULL REFERENCES disk (id) DEFERRABLE INITIALLY DEFERRED,
    pool TEXT NOT NULL REFERENCES pool (id) DEFERRABLE INITIALLY DEFERRED,
    file TEXT NOT NULL,
    format TEXT NOT NULL,
    created INTEGER NOT NULL,
    mark TEXT NOT NULL,
    UNIQUE (pool, file)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshot (
    id TEXT PRIMARY KEY,
    vm TEXT REFERENCES vm (id) DEFERRABLE INITIALLY DEFERRED,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    parent TEXT REFERENCES snapshot (id) DEFERRABLE INITIALLY DEFERRED,
    created INTEGER NOT NULL,
    vm_state TEXT NOT NULL,
    consistency TEXT NOT NULL,
    status TEXT NOT NULL,
    origin TEXT NOT NULL,
    config TEXT NOT NULL,
    config_type TEXT NOT NULL,
    UNIQUE (vm, name)
) STRICT, WITHOUT ROWID;

-- A disk or volume may be gone while a snapshot still names it: no foreign keys there.
CREATE TABLE snapshot_disk (
    snapshot TEXT NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE,
    disk TEXT NOT NULL,
    volume TEXT NOT NULL,
    PRIMARY KEY (snapshot, disk)
) STRICT, WITHOUT ROWID;

-- Devices that are no disks of ours have no id: there may be several without a disk.
CREATE TABLE snapshot_excluded (
    snapshot TEXT NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    disk TEXT,
    why TEXT NOT NULL,
    PRIMARY KEY (snapshot, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE job (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    step TEXT NOT NULL,
    started INTEGER NOT NULL,
    finished INTEGER NOT NULL,
    owner_uid INTEGER NOT NULL,
    done_bytes INTEGER NOT NULL,
    total_bytes INTEGER NOT NULL,
    error_name TEXT,
    error_message TEXT,
    result TEXT NOT NULL,
    plan TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Files without a record that could not be unlinked. The pool is its directory: it may be forgotten before.
CREATE TABLE unwanted_file (
    pool TEXT NOT NULL,
    file TEXT NOT NULL,
    inode INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (pool, file)
) STRICT, WITHOUT ROWID;

-- Not REFERENCES vm: the mark must be written whatever else is true.
CREATE TABLE frozen (vm TEXT PRIMARY KEY, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE stale_manifest (vm TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
)sql",
    R"sql(
-- No foreign keys: what it refers to is held by the program, and its clean-up must be possible whatever is true.
CREATE TABLE export (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    volume TEXT NOT NULL,
    disk TEXT NOT NULL,
    snapshot TEXT,
    writable INTEGER NOT NULL,
    owner_uid INTEGER NOT NULL,
    allowed_uid INTEGER,
    caller TEXT NOT NULL,
    expires INTEGER NOT NULL,
    address TEXT NOT NULL,
    bitmap TEXT NOT NULL,
    server_pid INTEGER NOT NULL,
    server_started INTEGER NOT NULL,
    mounter_pid INTEGER NOT NULL,
    mounter_started INTEGER NOT NULL,
    appliance TEXT,
    serial TEXT NOT NULL
) STRICT, WITHOUT ROWID;
)sql",
    R"sql(
ALTER TABLE export ADD COLUMN backup TEXT;

-- As with exports. The disks are a JSON document: nobody asks for one of them alone.
CREATE TABLE backup (
    id TEXT PRIMARY KEY,
    vm TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    consistency TEXT NOT NULL,
    checkpoint TEXT NOT NULL,
    since TEXT NOT NULL,
    created INTEGER NOT NULL,
    owner_uid INTEGER NOT NULL,
    allowed_uid INTEGER,
    caller TEXT NOT NULL,
    qemu_pid INTEGER NOT NULL,
    qemu_started INTEGER NOT NULL,
    problem TEXT NOT NULL,
    disks TEXT NOT NULL
) STRICT, WITHOUT ROWID;
)sql",
    R"sql(
ALTER TABLE vm ADD COLUMN profiles TEXT NOT NULL DEFAULT '{}';
-- Not REFERENCES schedule: what a schedule made outlives it.
ALTER TABLE snapshot ADD COLUMN schedule TEXT;
CREATE TABLE schedule (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    vm TEXT NOT NULL REFERENCES vm (id) DEFERRABLE INITIALLY DEFERRED,
    settings TEXT NOT NULL,
    handled INTEGER NOT NULL,
    last INTEGER NOT NULL,
    last_result TEXT NOT NULL,
    running INTEGER NOT NULL,
    UNIQUE (vm, name)
) STRICT, WITHOUT ROWID;
)sql",
    R"sql(
ALTER TABLE backup ADD COLUMN source TEXT NOT NULL DEFAULT 'running';
ALTER TABLE backup ADD COLUMN snapshot TEXT;
ALTER TABLE backup ADD COLUMN moment INTEGER NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN config TEXT NOT NULL DEFAULT '';
ALTER TABLE backup ADD COLUMN config_type TEXT NOT NULL DEFAULT '';
-- Of a restore: a JSON document.
ALTER TABLE backup ADD COLUMN restored TEXT;
)sql",
    R"sql(
-- JSON documents: nobody asks for one file alone.
ALTER TABLE snapshot ADD COLUMN files TEXT NOT NULL DEFAULT '[]';
ALTER TABLE vm ADD COLUMN nvram TEXT NOT NULL DEFAULT '[]';
-- Not REFERENCES snapshot: what is gone is due no more.
ALTER TABLE vm ADD COLUMN resumes_from TEXT;
ALTER TABLE vm ADD COLUMN former_resumes_from TEXT;
ALTER TABLE vm ADD COLUMN former_nvram TEXT NOT NULL DEFAULT '[]';
)sql",
};

void make(Database& database, std::int64_t migration) {
    database.execute("BEGIN IMMEDIATE");
    try {
        database.execute(migrations.at(static_cast<std::size_t>(migration)));
        database.execute(fmt::format("PRAGMA user_version={}", migration + 1));
        database.execute("COMMIT");
    } catch (...) {
        database.execute("ROLLBACK");
        throw;
    }
}

}  // namespace

void migrate(Database& database) {
    auto query = database.prepare("PRAGMA user_version");
    const std::int64_t found = query.row() ? query.number(0) : 0;
    constexpr auto wanted = static_cast<std::int64_t>(migrations.size());
    if (found > wanted)
        throw Error(ErrorCode::unsupported,
                    "the state database has schema {}, this volchain knows up to {}: start the version that "
                    "wrote it, or "
                    "a newer one",
                    found, wanted);
    query.run();
    for (std::int64_t done = found; done < wanted; ++done) make(database, done);
}

}  // namespace volchain::storage
