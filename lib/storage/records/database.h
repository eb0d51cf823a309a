// SPDX-License-Identifier: MIT
//
// Database and Statement: SQLite with RAII and Errors. Blocking; used by one thread at a time (the Store's
// worker). AlreadyExists is a change that contradicts what is there (a constraint of the schema), NoSpace a
// full medium; other failures are Internal.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace volchain::storage {

class Statement {
  public:
    /// Values for the parameters, in order.
    Statement& bind(std::string_view text);
    Statement& bind(std::int64_t number);
    Statement& bind_null();

    /// Whether there is a (further) row; its columns are read with text() and number().
    [[nodiscard]] bool row();
    /// For statements without rows.
    void run();

    [[nodiscard]] std::string text(int column) const;
    [[nodiscard]] std::int64_t number(int column) const;
    [[nodiscard]] bool null(int column) const;

  private:
    friend class Database;
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const noexcept;
    };
    Statement(sqlite3* database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}

    sqlite3* database_;
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
    int bound_ = 0;
};

class Database {
  public:
    /// Opens or creates the file, mode 0600. Throws where it is not a database, and Busy where another
    /// process has it open.
    explicit Database(const std::string& path);

    [[nodiscard]] Statement prepare(std::string_view sql);
    void execute(const std::string& sql);

  private:
    struct Close {
        void operator()(sqlite3* database) const noexcept;
    };
    std::unique_ptr<sqlite3, Close> database_;
};

}  // namespace volchain::storage
