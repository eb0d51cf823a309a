// SPDX-License-Identifier: MIT
//
// The text of a calendar taken apart: crontab(5), and systemd.time(7) "CALENDAR EVENTS".
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "storage/schedules/calendar.h"

namespace volchain::storage {
namespace {

constexpr std::array<std::string_view, 7> weekday_names{"sunday",   "monday", "tuesday", "wednesday",
                                                        "thursday", "friday", "saturday"};
constexpr std::array<std::string_view, 13> month_names{
    "",     "january", "february",  "march",   "april",    "may",     "june",
    "july", "august",  "september", "october", "november", "december"};

std::string lower(std::string_view text) {
    std::string all(text);
    std::transform(all.begin(), all.end(), all.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return all;
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    std::size_t start = 0;
    for (std::size_t at = 0; at <= text.size(); ++at) {
        if (at != text.size() && text[at] != separator) continue;
        parts.emplace_back(text.substr(start, at - start));
        start = at + 1;
    }
    return parts;
}

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    std::string spaced(text);
    std::replace(spaced.begin(), spaced.end(), '\t', ' ');
    for (std::string& word : split(spaced, ' '))
        if (!word.empty()) words.push_back(std::move(word));
    return words;
}

/// "mon" and "monday" of a list of names; none where it is no name.
template <std::size_t N>
std::optional<unsigned> named(const std::array<std::string_view, N>& names, std::string_view word) {
    const std::string wanted = lower(word);
    for (unsigned index = 0; index < N; ++index)
        if (!names[index].empty() && (wanted == names[index] || wanted == names[index].substr(0, 3)))
            return index;
    return std::nullopt;
}

/// One field: its bounds, and whether months or weekdays may be called by their names.
struct Field {
    std::string_view what;
    unsigned low = 0;
    unsigned high = 0;
    bool months = false;
    bool weekdays = false;
};

class CalendarText {
  public:
    explicit CalendarText(const std::string& text) : text_(text) {}

    Calendar::Spec parse() {
        if (text_.size() > 256) refuse("longer than 256 bytes");
        std::vector<std::string> words = words_of(text_);
        if (words.empty()) refuse("it is empty");
        everything();
        if (words.size() == 5)
            cron(words);
        else
            on_calendar(std::move(words));
        return spec_;
    }

  private:
    template <typename... Args>
    [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
        throw Error(ErrorCode::invalid_argument, "calendar {}: {}", quote(text_),
                    fmt::format(format, std::forward<Args>(args)...));
    }

    void everything() {
        spec_.years.set();
        spec_.months.set();
        spec_.days.set();
        spec_.weekdays.set();
    }

    unsigned value(const Field& field, const std::string& text) const {
        if (field.months)
            if (const auto month = named(month_names, text)) return *month;
        if (field.weekdays)
            if (const auto day = named(weekday_names, text)) return *day;
        unsigned number = 0;
        const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (text.empty() || failure != std::errc() || end != text.data() + text.size())
            refuse("{} {} is no number", field.what, quote(text));
        if (number < field.low || number > field.high)
            refuse("{} {} is not from {} to {}", field.what, number, field.low, field.high);
        return number;
    }

    unsigned step(const Field& field, const std::string& text) const {
        const unsigned wanted = value({field.what, 1, field.high}, text);
        return wanted;
    }

    // --- cron ---

    /// "*", "5", "1-5", "*/15", "10-20/2", and lists of them. Of a single value with a step: from there to the end.
    template <std::size_t N>
    void cron_field(const Field& field, const std::string& text, std::bitset<N>& bits) const {
        bits.reset();
        for (const std::string& part : split(text, ',')) {
            const std::vector<std::string> with_step = split(part, '/');
            if (with_step.size() > 2) refuse("{} {} has two steps", field.what, quote(part));
            unsigned first = field.low;
            unsigned last = field.high;
            if (with_step[0] != "*") {
                const std::vector<std::string> ends = split(with_step[0], '-');
                if (ends.size() > 2) refuse("{} {} is no range", field.what, quote(part));
                first = value(field, ends[0]);
                last =
                    ends.size() == 2 ? value(field, ends[1]) : (with_step.size() == 2 ? field.high : first);
            }
            // 7 is Sunday, too: "fri-sun" reaches it.
            if (field.weekdays && last == 0 && first > 0) last = 7;
            if (first > last) refuse("{} {} runs backwards", field.what, quote(part));
            const unsigned by = with_step.size() == 2 ? step(field, with_step[1]) : 1;
            for (unsigned at = first; at <= last; at += by) bits.set(field.weekdays ? at % 7 : at);
        }
    }

    void cron(const std::vector<std::string>& words) {
        cron_field({"minute", 0, 59}, words[0], spec_.minutes);
        cron_field({"hour", 0, 23}, words[1], spec_.hours);
        cron_field({"day of the month", 1, 31}, words[2], spec_.days);
        cron_field({"month", 1, 12, true}, words[3], spec_.months);
        cron_field({"weekday", 0, 7, false, true}, words[4], spec_.weekdays);
        spec_.either_day = !words[2].starts_with('*') && !words[4].starts_with('*');
    }

    // --- OnCalendar ---

    /// The bits of "5", "1..5", "*", "0/15", "1..20/2", and lists of them.
    template <typename Set>
    void values(const Field& field, const std::string& text, const Set& set) const {
        for (const std::string& part : split(text, ',')) {
            const std::vector<std::string> with_step = split(part, '/');
            if (with_step.size() > 2) refuse("{} {} has two steps", field.what, quote(part));
            unsigned first = field.low;
            unsigned last = field.high;
            if (with_step[0] != "*") {
                const std::size_t dots = with_step[0].find("..");
                first = value(field, with_step[0].substr(0, dots));
                if (dots != std::string::npos)
                    last = value(field, with_step[0].substr(dots + 2));
                else if (with_step.size() == 1)
                    last = first;
            }
            if (first > last) refuse("{} {} runs backwards", field.what, quote(part));
            const unsigned by = with_step.size() == 2 ? step(field, with_step[1]) : 1;
            for (unsigned at = first; at <= last; at += by) set(at);
        }
    }

    template <std::size_t N>
    void values_of(const Field& field, const std::string& text, std::bitset<N>& bits) const {
        bits.reset();
        values(field, text, [&bits](unsigned at) { bits.set(at); });
    }

    bool by_word(const std::string& word) {
        struct Word {
            std::string_view word;
            std::string_view weekday;
            std::string_view date;
            std::string_view time;
        };
        static constexpr std::array<Word, 9> all{{{"minutely", "", "*-*-*", "*:*"},
                                                  {"hourly", "", "*-*-*", "*:00"},
                                                  {"daily", "", "*-*-*", "00:00"},
                                                  {"weekly", "mon", "*-*-*", "00:00"},
                                                  {"monthly", "", "*-*-01", "00:00"},
                                                  {"quarterly", "", "*-01,04,07,10-01", "00:00"},
                                                  {"semiannually", "", "*-01,07-01", "00:00"},
                                                  {"yearly", "", "*-01-01", "00:00"},
                                                  {"annually", "", "*-01-01", "00:00"}}};
        for (const Word& known : all) {
            if (known.word != lower(word)) continue;
            if (!known.weekday.empty()) weekdays(std::string(known.weekday));
            date(std::string(known.date));
            time(std::string(known.time));
            return true;
        }
        return false;
    }

    void on_calendar(std::vector<std::string> words) {
        const std::string& last = words.back();
        const bool a_zone = last.find(':') == std::string::npos &&
                            std::isalpha(static_cast<unsigned char>(last.front())) != 0 && is_time_zone(last);
        if (a_zone) {
            spec_.zone = last;
            words.pop_back();
            if (words.empty()) refuse("a time zone, and no time");
        }
        if (words.size() == 1 && by_word(words.front())) return;
        std::size_t at = 0;
        if (std::isalpha(static_cast<unsigned char>(words[at].front())) != 0) weekdays(words[at++]);
        const auto is_time = [&] { return words[at].find(':') != std::string::npos; };
        if (at < words.size() && !is_time()) date(words[at++]);
        spec_.hours.set(0);
        spec_.minutes.set(0);
        if (at < words.size() && is_time()) time(words[at++]);
        if (at < words.size()) refuse("{} is neither a time nor a time zone of this host", quote(words[at]));
    }

    void weekdays(const std::string& text) {
        spec_.weekdays.reset();
        for (const std::string& part : split(text, ',')) {
            const std::size_t dots = part.find("..");
            const std::size_t dash = part.find('-');
            const std::size_t cut = std::min(dots, dash);
            const auto first = named(weekday_names, part.substr(0, cut));
            auto last = first;
            if (cut != std::string::npos)
                last = named(weekday_names, part.substr(cut + (cut == dots ? 2 : 1)));
            if (!first || !last) refuse("{} is no weekday", quote(part));
            for (unsigned at = *first; at != *last; at = (at + 1) % 7) spec_.weekdays.set(at);
            spec_.weekdays.set(*last);
        }
    }

    void date(const std::string& text) {
        const std::size_t end_cut = text.rfind('~');
        const bool from_end = end_cut != std::string::npos;
        std::vector<std::string> parts =
            split(from_end ? text.substr(0, end_cut) + "-" + text.substr(end_cut + 1) : text, '-');
        if (parts.size() < 2 || parts.size() > 3) refuse("{} is no date as *-MM-DD", quote(text));
        if (parts.size() == 3) {
            spec_.years.reset();
            constexpr auto low = static_cast<unsigned>(Calendar::first_year);
            values({"year", low, static_cast<unsigned>(Calendar::last_year)}, parts[0],
                   [this](unsigned at) { spec_.years.set(at - low); });
        }
        const std::string& month = parts[parts.size() - 2];
        values_of({"month", 1, 12}, month, spec_.months);
        spec_.days.reset();
        if (from_end)
            days_from_end(parts.back());
        else
            values_of({"day of the month", 1, 31}, parts.back(), spec_.days);
    }

    /// Counted from the end of the month; a step leads towards it.
    void days_from_end(const std::string& text) {
        const Field field{"day of the month", 1, 31};
        for (const std::string& part : split(text, ',')) {
            const std::vector<std::string> with_step = split(part, '/');
            if (with_step.size() == 1) {
                values(field, part, [this](unsigned at) { spec_.days_from_end.set(at); });
                continue;
            }
            const unsigned by = step(field, with_step[1]);
            for (unsigned at = value(field, with_step[0]); at >= 1; at -= std::min(at, by))
                spec_.days_from_end.set(at);
        }
    }

    void time(const std::string& text) {
        const std::vector<std::string> parts = split(text, ':');
        if (parts.size() < 2 || parts.size() > 3) refuse("{} is no time as HH:MM", quote(text));
        values_of({"hour", 0, 23}, parts[0], spec_.hours);
        values_of({"minute", 0, 59}, parts[1], spec_.minutes);
        if (parts.size() < 3) return;
        std::bitset<60> seconds;
        values_of({"second", 0, 59}, parts[2], seconds);
        if (seconds.count() != 1) refuse("more than once a minute");
        while (!seconds.test(spec_.second)) ++spec_.second;
    }

    const std::string& text_;
    Calendar::Spec spec_;
};

}  // namespace

Calendar::Spec parse_calendar(const std::string& text) {
    return CalendarText(text).parse();
}

}  // namespace volchain::storage
