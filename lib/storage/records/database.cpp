// SPDX-License-Identifier: MIT
#include "storage/records/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "base/text.h"
#include "base/unique_fd.h"

namespace volchain::storage {
namespace {

ErrorCode code_of(int sqlite_code) {
    switch (sqlite_code) {
        case SQLITE_FULL:
            return ErrorCode::no_space;
        case SQLITE_CONSTRAINT:  // the records contradict each other: trying again does not help
            return ErrorCode::already_exists;
        case SQLITE_BUSY:
            return ErrorCode::busy;
        default:
            return ErrorCode::internal;
    }
}

[[noreturn]] void fail(sqlite3* database, std::string_view activity) {
    throw Error(code_of(sqlite3_errcode(database)), "state database: {}: {}", activity,
                sqlite3_errmsg(database));
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const noexcept {
    (void)sqlite3_finalize(statement);
}

Statement& Statement::bind(std::string_view text) {
    // A null pointer would bind NULL, not an empty string.
    const char* const data = text.empty() ? "" : text.data();
    if (sqlite3_bind_text64(statement_.get(), ++bound_, data, text.size(), SQLITE_TRANSIENT, SQLITE_UTF8) !=
        SQLITE_OK)
        fail(database_, "bind");
    return *this;
}

Statement& Statement::bind(std::int64_t number) {
    if (sqlite3_bind_int64(statement_.get(), ++bound_, number) != SQLITE_OK) fail(database_, "bind");
    return *this;
}

Statement& Statement::bind_null() {
    if (sqlite3_bind_null(statement_.get(), ++bound_) != SQLITE_OK) fail(database_, "bind");
    return *this;
}

bool Statement::row() {
    switch (sqlite3_step(statement_.get())) {
        case SQLITE_ROW:
            return true;
        case SQLITE_DONE:
            return false;
        default:
            fail(database_, sqlite3_sql(statement_.get()));
    }
}

void Statement::run() {
    while (row()) {
    }
}

std::string Statement::text(int column) const {
    const auto* data =
        static_cast<const char*>(static_cast<const void*>(sqlite3_column_text(statement_.get(), column)));
    return data == nullptr
               ? std::string()
               : std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column)));
}

std::int64_t Statement::number(int column) const {
    return sqlite3_column_int64(statement_.get(), column);
}

bool Statement::null(int column) const {
    return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

void Database::Close::operator()(sqlite3* database) const noexcept {
    (void)sqlite3_close_v2(database);
}

Database::Database(const std::string& path) {
    // SQLite would create it with the umask's mode; the configurations of VMs in it are nobody else's
    // business.
    const UniqueFd created(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!created) throw system_error(errno, "cannot open the state database " + quote(path));
    sqlite3* database = nullptr;
    const int result =
        sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
    database_.reset(database);
    if (result != SQLITE_OK) fail(database, "cannot open " + quote(path));
    // One daemon at a time: the lock is taken with the first statement and kept, so there is no need for the
    // shared memory file either.
    execute("PRAGMA locking_mode=EXCLUSIVE");
    try {
        execute("PRAGMA journal_mode=WAL");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::busy) throw;
        throw Error(ErrorCode::busy, "another process has the state database {} open", quote(path));
    }
    execute("PRAGMA synchronous=FULL");
    execute("PRAGMA foreign_keys=ON");
}

Statement Database::prepare(std::string_view sql) {
    sqlite3_stmt* statement = nullptr;
    if (sqlite3_prepare_v2(database_.get(), sql.data(), static_cast<int>(sql.size()), &statement, nullptr) !=
        SQLITE_OK)
        fail(database_.get(), sql);
    return {database_.get(), statement};
}

void Database::execute(const std::string& sql) {
    if (sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
        fail(database_.get(), sql);
}

}  // namespace volchain::storage
