// SPDX-License-Identifier: MIT
#include "systemd/marshal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <limits>
#include <tuple>

#include "systemd/variant.h"

namespace volchain::bus::marshal_test {
namespace {

/// A place and a size, as a handler might return it.
struct Extent {
    std::uint64_t start = 0;
    std::string kind;
    bool operator==(const Extent&) const = default;

    template <typename Self>
    static auto as_tuple(Self& self) {
        return std::tie(self.start, self.kind);
    }
};

static_assert(signature<bool>.view() == "b");
static_assert(signature<std::uint8_t>.view() == "y");
static_assert(signature<std::int16_t>.view() == "n");
static_assert(signature<std::uint16_t>.view() == "q");
static_assert(signature<int>.view() == "i");
static_assert(signature<unsigned>.view() == "u");
static_assert(signature<long>.view() == "x");
static_assert(signature<long long>.view() == "x");
static_assert(signature<std::size_t>.view() == "t");
static_assert(signature<double>.view() == "d");
static_assert(signature<std::string>.view() == "s");
static_assert(signature<ObjectPath>.view() == "o");
static_assert(signature<Signature>.view() == "g");
static_assert(signature<UnixFd>.view() == "h");
static_assert(signature<Variant>.view() == "v");
static_assert(signature<std::vector<ObjectPath>>.view() == "ao");
static_assert(signature<Dict>.view() == "a{sv}");
static_assert(signature<std::vector<Dict>>.view() == "aa{sv}");
static_assert(signature<std::pair<std::string, std::string>>.view() == "(ss)");
static_assert(signature<std::vector<Extent>>.view() == "a(ts)");
static_assert(signature<std::map<ObjectPath, ObjectPath>>.view() == "a{oo}");
static_assert(
    body_signature<std::tuple<std::string, std::tuple<int, bool>, std::vector<std::uint8_t>>>.view() ==
    "s(ib)ay");
static_assert(body_signature<std::tuple<>>.view().empty());

/// Messages need an sd_bus, but no bus at the other end: one end of a socket pair that nobody reads will do.
class Marshalling : public testing::Test {
  protected:
    Marshalling() {
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets_), 0);
        EXPECT_GE(sd_bus_new(&bus_), 0);
        EXPECT_GE(sd_bus_set_fd(bus_, sockets_[0], sockets_[0]), 0);
        EXPECT_GE(sd_bus_start(bus_), 0);
    }
    Marshalling(const Marshalling&) = delete;
    Marshalling& operator=(const Marshalling&) = delete;
    ~Marshalling() override {
        sd_bus_close_unref(bus_);
        ::close(sockets_[1]);
    }

    Message make() {
        sd_bus_message* message = nullptr;
        EXPECT_GE(sd_bus_message_new_signal(bus_, &message, "/x", "x.y", "Z"), 0);
        return Message(message);
    }
    static void seal(const Message& message) { ASSERT_GE(sd_bus_message_seal(message.get(), 1, 0), 0); }

    template <typename T>
    T there_and_back(const T& value) {
        Message message = make();
        append(message, value);
        seal(message);
        EXPECT_EQ(message.signature(), signature<T>.view());
        return std::get<0>(read_body<std::tuple<T>>(message));
    }
    template <typename T>
    void expect_same(const T& value) {
        EXPECT_EQ(there_and_back(value), value) << signature<T>.view();
        const Variant in_variant = value;
        EXPECT_EQ(in_variant.signature(), signature<T>.view());
        const Variant back = there_and_back(in_variant);
        EXPECT_EQ(back, in_variant) << signature<T>.view();
        EXPECT_EQ(back.get<T>(), value) << signature<T>.view();
    }

    static std::string failure_of(const std::function<void()>& work) {
        try {
            work();
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
            return error.what();
        }
        ADD_FAILURE() << "nothing was thrown";
        return "";
    }

  private:
    int sockets_[2] = {-1, -1};
    sd_bus* bus_ = nullptr;
};

TEST_F(Marshalling, EveryBasicTypeComesBack) {
    expect_same(true);
    expect_same(false);
    expect_same(std::uint8_t{255});
    expect_same(std::numeric_limits<std::int16_t>::min());
    expect_same(std::numeric_limits<std::uint16_t>::max());
    expect_same(std::numeric_limits<std::int32_t>::min());
    expect_same(std::numeric_limits<std::uint32_t>::max());
    expect_same(std::numeric_limits<std::int64_t>::min());
    expect_same(std::numeric_limits<std::uint64_t>::max());
    expect_same(0.1);
    expect_same(std::string());
    expect_same(
        std::string("Gr\xC3\xBC\xC3\x9F"
                    "e"));
    expect_same(ObjectPath());
    expect_same(ObjectPath("/org/volchain1/disk/x"));
    expect_same(Signature("a{sv}"));
}

TEST_F(Marshalling, ContainersComeBack) {
    expect_same(std::vector<std::uint8_t>{});
    expect_same(std::vector<std::uint8_t>{0, 1, 255});
    expect_same(std::vector<bool>{true, false});
    expect_same(std::vector<std::string>{});
    expect_same(std::vector<std::string>{"a", "", "c"});
    expect_same(std::map<std::string, std::uint32_t>{{"keep-last", 3}, {"keep-daily", 7}});
    expect_same(std::map<ObjectPath, ObjectPath>{{ObjectPath("/d"), ObjectPath("/s")}});
    expect_same(std::pair<std::string, std::string>("NoSpace", "full"));
    expect_same(std::tuple<int, std::vector<std::tuple<std::string, bool>>>(1, {{"x", true}, {"y", false}}));
    expect_same(Extent{7, "data"});
    expect_same(std::vector<Extent>{{0, "hole"}, {65536, "data"}});
    expect_same(std::vector<std::vector<std::uint64_t>>{{1, 2}, {}, {3}});
}

TEST_F(Marshalling, VariantsNest) {
    Dict inner;
    inner.emplace("number", std::uint64_t{7});
    inner.emplace("path", ObjectPath("/a"));
    inner.emplace("bytes", std::vector<std::uint8_t>{1, 2});
    Dict outer;
    outer.emplace("findings", std::vector<Dict>{inner, Dict()});
    outer.emplace("excluded", std::vector<std::pair<ObjectPath, std::string>>{{ObjectPath("/d"), "why"}});
    outer.emplace("boxed", Variant(std::vector<Variant>{Variant(true), Variant("text")}));
    expect_same(outer);
    const Dict back = there_and_back(outer);
    EXPECT_EQ(back.at("findings").get<std::vector<Dict>>()->at(0).at("number").get<std::uint64_t>(), 7U);
    EXPECT_EQ(back.at("boxed").signature(), "av");
    EXPECT_EQ(back.at("boxed").get<std::vector<Variant>>()->at(1), Variant("text"));
    EXPECT_EQ(back.at("excluded").get<std::string>(), std::nullopt) << "another type than asked for";
}

TEST_F(Marshalling, DescriptorsAreDuplicatesWithCloexec) {
    UnixFd fd(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
    Message message = make();
    append(message, fd);
    append(message, Variant(fd));
    seal(message);
    const auto [plain, in_variant] = read_body<std::tuple<UnixFd, Variant>>(message);
    const UnixFd other = in_variant.get<UnixFd>().value();
    EXPECT_NE(plain.get(), fd.get());
    EXPECT_NE(plain.get(), other.get());
    for (const UnixFd& received : {plain, other}) {
        struct stat sent {};
        struct stat got {};
        ASSERT_EQ(::fstat(fd.get(), &sent), 0);
        ASSERT_EQ(::fstat(received.get(), &got), 0);
        EXPECT_EQ(sent.st_rdev, got.st_rdev);
        EXPECT_NE(::fcntl(received.get(), F_GETFD) & FD_CLOEXEC, 0);
    }
    EXPECT_NE(plain.duplicate().get(), plain.get());
    Message none = make();
    EXPECT_THROW(append(none, UnixFd()), Error);
}

TEST_F(Marshalling, TextThatTheBusWouldNotTakeIsMended) {
    EXPECT_EQ(there_and_back(std::string("a\xFF"
                                         "b")),
              "a\xEF\xBF\xBD"
              "b");
    EXPECT_EQ(there_and_back(std::string("a\0b", 3)),
              "a\xEF\xBF\xBD"
              "b");
    EXPECT_EQ(there_and_back(std::string("\xE2\x82")), "\xEF\xBF\xBD\xEF\xBF\xBD");
    EXPECT_EQ(there_and_back(Variant("\xC3\x28")).get<std::string>(), "\xEF\xBF\xBD(");
    EXPECT_THROW(ObjectPath("/a/"), Error);
    EXPECT_THROW(ObjectPath(std::string("/a\0", 3)), Error);
}

TEST_F(Marshalling, AnotherTypeThanExpectedIsInvalidArgument) {
    Message message = make();
    append(message, std::string("text"));
    seal(message);
    EXPECT_EQ(failure_of([&] { (void)read_body<std::tuple<std::uint64_t>>(message); }),
              "D-Bus message Z: the arguments are of type 's', expected 't'");
    EXPECT_EQ(failure_of([&] { (void)read_body<std::tuple<>>(message); }),
              "D-Bus message Z: the arguments are of type 's', expected ''");
    const auto read_as = [&message](auto type) {
        Reader reader(message);
        (void)read<decltype(type)>(reader);
    };
    (void)failure_of([&] { read_as(std::uint64_t{}); });
    (void)failure_of([&] { read_as(true); });
    (void)failure_of([&] { read_as(std::vector<std::uint8_t>()); });
    (void)failure_of([&] { read_as(std::vector<std::string>()); });
    (void)failure_of([&] { read_as(Dict()); });
    (void)failure_of([&] { read_as(std::pair<int, int>()); });
    (void)failure_of([&] { read_as(Extent()); });
    (void)failure_of([&] { read_as(Variant()); });
    (void)failure_of([&] { read_as(ObjectPath()); });
    (void)failure_of([&] { read_as(UnixFd()); });
    (void)failure_of([&] {
        Reader reader(message);
        (void)read<std::string>(reader);
        (void)read<std::string>(reader);  // nothing is left
    });
}

using Everything =
    std::tuple<bool, std::uint8_t, std::int16_t, std::uint16_t, std::int32_t, std::uint32_t, std::int64_t,
               std::uint64_t, double, std::string, ObjectPath, Signature, Variant, std::vector<std::uint8_t>,
               std::vector<std::string>, std::vector<ObjectPath>, Dict, std::vector<Dict>,
               std::map<ObjectPath, ObjectPath>, std::pair<std::string, std::string>,
               std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>>, Extent>;

/// Whether a message that holds an A, read as a B, gives what it ought to: a value where the types are the same.
template <typename A, typename B>
void expect_read(const Message& message) {
    bool read_it = false;
    try {
        Reader reader(message);
        (void)read<B>(reader);
        read_it = true;
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument) << error.what();
    }
    EXPECT_EQ(read_it, signature<A>.view() == signature<B>.view())
        << signature<A>.view() << " read as " << signature<B>.view();
}

TEST_F(Marshalling, EveryTypeReadAsEveryOther) {
    const auto as_all = [this]<typename A, typename... B>(const A& value, const std::tuple<B...>*) {
        Message message = make();
        append(message, value);
        seal(message);
        (expect_read<A, B>(message), ...);
    };
    const auto all = [&]<typename... A>(const std::tuple<A...>& values) {
        (as_all(std::get<A>(values), &values), ...);
    };
    all(Everything());
}

TEST_F(Marshalling, AKeyGivenTwiceIsInvalidArgument) {
    Message message = make();
    message.open('a', "{sv}");
    for (int i = 0; i < 2; ++i) {
        message.open('e', "sv");
        append(message, "speed");
        append(message, Variant(i));
        message.close();
    }
    message.close();
    seal(message);
    (void)failure_of([&] { (void)read_body<std::tuple<Dict>>(message); });
}

TEST_F(Marshalling, DepthIsLimited) {
    Variant deep("bottom");
    for (int i = 0; i < 50; ++i) deep = Variant(std::vector<Variant>{deep});
    Message message = make();
    append(message, deep);
    seal(message);
    EXPECT_EQ(failure_of([&] { (void)read_body<std::tuple<Variant>>(message); }),
              "D-Bus message Z: nested deeper than 32 levels");
}

TEST_F(Marshalling, NumberOfValuesIsLimited) {
    const std::vector<std::int16_t> many(Reader::max_values + 1);
    Message message = make();
    message.open('v', "an");
    append(message, many);
    message.close();
    seal(message);
    EXPECT_EQ(failure_of([&] { (void)read_body<std::tuple<Variant>>(message); }),
              "D-Bus message Z: too many values");

    const std::vector<std::uint8_t> bytes(Reader::max_values + 1);
    EXPECT_EQ(there_and_back(Variant(bytes)).get<std::vector<std::uint8_t>>(), bytes)
        << "bytes are one value";
}

TEST(ObjectPath, IdsInPaths) {
    const Uuid id = Uuid::make();
    const ObjectPath path = object_path("/org/volchain1/disk", id);
    EXPECT_EQ(path.str(), "/org/volchain1/disk/" + id.str('_'));
    EXPECT_EQ(object_id("/org/volchain1/disk", path.str()), id);
    EXPECT_TRUE(object_path("/org/volchain1/disk", Uuid()).none());
    for (const std::string& other :
         {std::string("/"), std::string("/org/volchain1/disk"), std::string("/org/volchain1/disk/"),
          path.str() + "/x", "/org/volchain1/disks/" + id.str('_'), "/org/volchain1/disk" + id.str('_'),
          std::string("/org/volchain1/disk/00000000_0000_0000_0000_000000000000"),
          std::string("/org/volchain1/disk/ABCDEF00_0000_0000_0000_000000000000")})
        EXPECT_EQ(object_id("/org/volchain1/disk", other), std::nullopt) << other;
}

}  // namespace
}  // namespace volchain::bus::marshal_test
