// SPDX-License-Identifier: MIT
//
// What exports are made of that needs no storage daemon: addresses, credentials, sockets, bitmaps, the counting of
// connections.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/process_mark.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/exports/export_listener.h"
#include "storage/exports/export_place.h"
#include "storage/exports/socket_census.h"
#include "support.h"

namespace volchain::storage::export_parts_test {
namespace {

// --- addresses ---

TEST(TcpAddress, IsANumericAddressAndAPort) {
    const TcpAddress v4 = TcpAddress::parse("192.0.2.1:10809");
    EXPECT_EQ(v4.host, "192.0.2.1");
    EXPECT_EQ(v4.port, 10809);
    EXPECT_EQ(v4.str(), "192.0.2.1:10809");
    const TcpAddress v6 = TcpAddress::parse("[2001:db8::1]:0");
    EXPECT_EQ(v6.host, "2001:db8::1");
    EXPECT_EQ(v6.str(), "[2001:db8::1]:0");
}

TEST(TcpAddress, IsNothingElse) {
    for (const char* text :
         {"", ":", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:1x",
          "localhost:1", "2001:db8::1:1", "[192.0.2.1]:1", "[]:1", "[::1]", "[::1]1", "192.0.2.1:1:1", "*:1"})
        expect_error(ErrorCode::invalid_argument, {"address"}, [&] { (void)TcpAddress::parse(text); });
}

TEST(ListenTcp, TellsThePortAndWhoIsInTheWay) {
    TcpAddress any = TcpAddress::parse("127.0.0.1:0");
    const UniqueFd first = listen_tcp(any);
    EXPECT_NE(any.port, 0);
    expect_error(ErrorCode::in_use, {any.str()}, [&] { (void)listen_tcp(any); });
    TcpAddress foreign = TcpAddress::parse("192.0.2.77:0");
    expect_error(ErrorCode::unsupported, {"192.0.2.77"}, [&] { (void)listen_tcp(foreign); });
}

// --- credentials ---

void write_file(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
}

TEST(Credentials, AreCertificatesOrKeys) {
    const TemporaryDirectory directory;
    const std::string& path = directory.path();
    expect_error(ErrorCode::invalid_argument, {"keys.psk"}, [&] { (void)kind_of_credentials(path); });
    write_file(directory / "keys.psk", "user:00");
    EXPECT_EQ(kind_of_credentials(path), TlsKind::psk);
    for (const char* name : {"ca-cert.pem", "server-cert.pem", "server-key.pem"})
        write_file(directory / name, name);
    EXPECT_EQ(kind_of_credentials(path), TlsKind::x509);
    expect_error(ErrorCode::not_found, {"none"}, [&] { (void)kind_of_credentials(path + "/none"); });
}

TEST(Credentials, AreCopiedForOneReader) {
    const TemporaryDirectory from;
    const TemporaryDirectory to;
    write_file(from / "keys.psk", "user:00");
    write_file(from / "server-key.pem", "no business of pre-shared keys");
    async::Identity reader;
    reader.uid = ::geteuid();
    reader.gid = ::getegid();
    copy_credentials(from.path(), to / "tls", reader);
    EXPECT_EQ(read_file(to / "tls/keys.psk", 100), "user:00");
    EXPECT_FALSE(std::filesystem::exists(to / "tls/server-key.pem"));
    struct stat status {};
    ASSERT_EQ(::stat((to / "tls/keys.psk").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0400u);
    ASSERT_EQ(::stat((to / "tls").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST(Credentials, AreNoLinks) {
    const TemporaryDirectory from;
    const TemporaryDirectory to;
    std::filesystem::create_symlink("/etc/passwd", from / "keys.psk");
    expect_error(ErrorCode::unsafe_image, {"keys.psk"},
                 [&] { copy_credentials(from.path(), to / "tls", async::Identity{}); });
}

// --- places ---

TEST(ExportPlace, LeavesNothing) {
    const TemporaryDirectory directory;
    const Uuid id = Uuid::make();
    const ExportPlace place(directory.path(), directory.path(), id);
    place.remove();
    place.make();
    place.make();
    async::Identity owner;
    owner.uid = ::geteuid();
    owner.gid = ::getegid();
    place.make_overlay(16 * mib, "/pool/below.qcow2", VolumeFormat::qcow2, owner);
    const VolumeFacts overlay =
        inspect_image(directory.path(), "exports/" + id.str() + ".qcow2", VolumeFormat::qcow2);
    EXPECT_EQ(overlay.size, 16 * mib);
    ASSERT_TRUE(overlay.backing);
    EXPECT_EQ(overlay.backing->path, "/pool/below.qcow2");
    const UniqueFd socket = place.listen(::geteuid());
    const UniqueFd connected = connect_as_client(place.socket());
    EXPECT_EQ(::fcntl(connected.get(), F_GETFL) & O_NONBLOCK, 0);
    struct stat status {};
    ASSERT_EQ(::stat(place.socket().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);
    place.remove();
    EXPECT_TRUE(std::filesystem::is_empty(directory / "exports"));
}

// --- counting ---

TEST(SocketCensus, CountsWhatIsConnected) {
    const auto found = unix_connections(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "00000000a9332da4: 00000003 00000000 00000000 0001 02     0 /run/a.sock\n"
        "000000009fa407d3: 00000003 00000000 00000000 0001 03 5008199 /run/a.sock\n"
        "00000000864fa15b: 00000003 00000000 00000000 0001 03 5008203 /run/a.sock\n"
        "000000006a951291: 00000002 00000000 00010000 0001 01 5006472 /run/a.sock\n"
        "000000006a951292: 00000003 00000000 00000000 0001 03 5006473 /run/with a space\n"
        "000000006a951293: 00000003 00000000 00000000 0001 03 5006474\n");
    EXPECT_EQ(found, (std::map<std::string, std::uint32_t>{{"/run/a.sock", 2}, {"/run/with a space", 1}}));
    const auto ports = tcp_connections(
        "  sl  local_address rem_address   st tx_queue rx_queue\n"
        "   0: 0100007F:2A39 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:2A39 0100007F:C350 01 00000000:00000000\n"
        "   2: 0100007F:C350 0100007F:2A39 01 00000000:00000000\n");
    EXPECT_EQ(ports, (std::map<std::uint16_t, std::uint32_t>{{10809, 1}, {50000, 1}}));
    EXPECT_TRUE(unix_connections("").empty() && tcp_connections("\n\n x").empty());
}

TEST(ProcessMark, IsOfThisProcessAndNoOther) {
    const ProcessMark mine = mark_of_process(::getpid());
    EXPECT_EQ(mine.pid, static_cast<std::uint64_t>(::getpid()));
    EXPECT_GT(mine.started, 0u);
    EXPECT_EQ(mine, mark_of_process(::getpid()));
    EXPECT_NE(mine, mark_of_process(1));
    EXPECT_EQ(mark_of_process(0), ProcessMark());
    EXPECT_EQ(mark_of_process(4'194'304), ProcessMark());  // above the highest there is
}

// --- bitmaps ---

qmp::DirtyBitmap recording(std::uint64_t granularity = 65536) {
    qmp::DirtyBitmap bitmap;
    bitmap.name = "cp";
    bitmap.granularity = granularity;
    bitmap.persistent = true;
    bitmap.recording = true;
    return bitmap;
}

qmp::Node layer(const std::string& file, std::vector<qmp::DirtyBitmap> bitmaps) {
    qmp::Node node;
    node.name = file;
    node.filename = file;
    node.virtual_size = mib;
    node.bitmaps = std::move(bitmaps);
    return node;
}

using Layers = std::vector<const qmp::Node*>;

TEST(ExportBitmap, GoesDownWithoutAGap) {
    const qmp::Node top = layer("top", {recording()});
    const qmp::Node middle = layer("middle", {recording()});
    const qmp::Node base = layer("base", {});
    EXPECT_EQ(layers_with_recording({&top, &middle, &base}, "cp"), (Layers{&top, &middle}));
    EXPECT_EQ(layers_with_recording({&top}, "cp"), (Layers{&top}));
    expect_error(ErrorCode::not_found, {"base", "'cp'"}, [&] {
        (void)layers_with_recording({&base, &top}, "cp");
    });
    expect_error(ErrorCode::unsupported, {"'middle'", "a layer above"}, [&] {
        (void)layers_with_recording({&top, &base, &middle}, "cp");
    });
}

TEST(ExportBitmap, IsWholeOrRefused) {
    const qmp::Node top = layer("top", {recording()});
    qmp::DirtyBitmap crashed = recording();
    crashed.inconsistent = true;
    qmp::DirtyBitmap disabled = recording();
    disabled.recording = false;
    qmp::Node resized = layer("below", {recording()});
    resized.virtual_size = 2 * mib;
    for (const auto& [below, why] :
         std::vector<std::pair<qmp::Node, std::string>>{{layer("below", {crashed}), "crashed"},
                                                        {layer("below", {disabled}), "does not record"},
                                                        {layer("below", {recording(4096)}), "granularity"},
                                                        {resized, "resized"}})
        expect_error(ErrorCode::unsupported, {"'below'", why, "copy all of it"}, [&, &below = below] {
            (void)layers_with_recording({&top, &below}, "cp");
        });
}

}  // namespace
}  // namespace volchain::storage::export_parts_test
