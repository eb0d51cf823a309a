// SPDX-License-Identifier: MIT
#include "storage/exports/export_server.h"

#include <unistd.h>

#include <algorithm>

#include "base/text.h"
#include "qmp/event_queue.h"
#include "storage/backups/backup_place.h"
#include "storage/exports/export_listener.h"
#include "storage/process_keeper.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

/// A client each takes one.
constexpr std::uint64_t max_open_files = 4096;

/// RFC 3986: everything but what needs no percent sign in a query.
std::string percent_encoded(const std::string& text) {
    constexpr std::string_view plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    std::string encoded;
    for (const char c : text) {
        if (plain.find(c) != std::string_view::npos)
            encoded.push_back(c);
        else
            encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
    return encoded;
}

/// What the storage daemon may open.
std::vector<async::Command::Access> files_of(const Engine& engine, const ExportRecord& record,
                                             const ExportServerOptions& options) {
    const Catalog& catalog = engine.catalog();
    const ExportPlace place = place_of_export(engine, record.id);
    std::vector<async::Command::Access> files;
    const auto add = [&](std::string path, bool write) {
        files.emplace_back();
        files.back().path = std::move(path);
        files.back().write = write;
    };
    for (const Uuid& volume : catalog.chain(record.volume)) add(catalog.path(catalog.volume(volume)), false);
    for (const ImageAccess& image : options.images) add(image.path, image.write);
    if (record.writable && record.volume) add(place.overlay(), true);
    if (!options.tls_credentials.empty()) add(place.credentials(), false);
    return files;
}

/// QEMU's options are separated by commas.
std::string option_value(const std::string& text) {
    std::string value;
    for (const char c : text) value.append(c == ',' ? 2 : 1, c);
    return value;
}

/// What the command line of the storage daemon says of its NBD server.
std::vector<std::string> nbd_arguments(int socket, const ExportServerOptions& options,
                                       const std::string& credentials, TlsKind kind) {
    std::vector<std::string> arguments;
    std::string server = fmt::format("addr.type=fd,addr.str={}", socket);
    if (options.max_connections != 0) server += fmt::format(",max-connections={}", options.max_connections);
    if (!options.tls_credentials.empty()) {
        const std::string_view what = kind == TlsKind::x509 ? "x509" : "psk";
        arguments.emplace_back("--object");
        arguments.push_back(fmt::format("tls-creds-{},id=tls,endpoint=server,verify-peer=on,dir={}", what,
                                        option_value(credentials)));
        server += ",tls-creds=tls";
    }
    arguments.emplace_back("--nbd-server");
    arguments.push_back(std::move(server));
    return arguments;
}

UniqueFd make_unix_listener(const ExportPlace& place, const ExportRecord& record) {
    place.make();
    // Of a file, the one who mounts it is the client.
    if (record.kind == ExportKind::file) return place.listen(::geteuid());
    return place.listen(record.allowed_uid.value_or(record.owner_uid));
}

UniqueFd make_tcp_listener(const ExportPlace& place, TcpAddress address) {
    place.make();
    return listen_tcp(address);
}

async::Task<UniqueFd> make_listener(Engine& engine, ExportRecord record) {
    const ExportPlace place = place_of_export(engine, record.id);
    ProcessKeeper* const keeper = engine.process_keeper();
    if (record.address.empty()) {
        auto make = [place, record] { return make_unix_listener(place, record); };
        co_return co_await engine.files().run(std::move(make));
    }
    const TcpAddress address = TcpAddress::parse(record.address);
    if (keeper == nullptr) {
        auto make = [place, address] { return make_tcp_listener(place, address); };
        co_return co_await engine.files().run(std::move(make));
    }
    auto make = [place] { place.make(); };
    co_await engine.files().run(std::move(make));
    co_return co_await keeper->listen("volchain-listener-" + record.id.str(), address);
}

/// With the port that it turned out to be.
std::string address_of(const ExportRecord& record, int listener) {
    if (record.address.empty()) return {};
    TcpAddress address = TcpAddress::parse(record.address);
    address.port = bound_port(listener);
    return address.str();
}

/// The files of a node's layers, top first; empty for what is no file.
std::vector<std::string> files_beneath(const qmp::BlockGraph& graph, const std::string& node) {
    std::vector<std::string> files;
    for (const qmp::Node* layer : graph.chain(node))
        files.push_back(graph.file(layer->name).value_or(std::string()));
    return files;
}

async::Task<> check_shown(Engine& engine, std::shared_ptr<qmp::StorageDaemon> server, ExportRecord record) {
    const std::string node = co_await node_shown_by(engine, server);
    const qmp::BlockGraph graph =
        co_await qmp::read_block_graph(server->session(), async::after(engine.settings().command_timeout));
    const std::vector<std::string> files = files_beneath(graph, node);
    const Catalog& catalog = engine.catalog();
    std::vector<std::string> expected;
    const BackupRecord* const backup = backup_of_export(catalog, record);
    if (backup != nullptr && backup->restored)
        expected.push_back(catalog.pool(backup->restored->pool).path + "/" + backup->restored->file);
    else if (record.writable)
        expected.push_back(place_of_export(engine, record.id).overlay());
    // Where headers could not be read yet, the chain as far as it is known.
    for (const Uuid& volume : catalog.chain(record.volume))
        expected.push_back(catalog.path(catalog.volume(volume)));
    const bool same =
        files.size() >= expected.size() && std::equal(expected.begin(), expected.end(), files.begin());
    if (!same)
        throw Error(ErrorCode::qemu_failed, "storage daemon {} shows {}, not {}", record.server.pid,
                    joined(files, " on "), joined(expected, " on "));
}

/// What NBD clients ask for; empty: the default, so that they need not know a name.
std::string nbd_name_of(const Catalog& catalog, const ExportRecord& record) {
    return record.backup && record.disk ? catalog.disk(record.disk).name : std::string();
}

}  // namespace

const BackupRecord* backup_of_export(const Catalog& catalog, const ExportRecord& record) {
    const bool known = record.backup && catalog.has({ObjectKind::backup, record.backup});
    return known ? &catalog.backup(record.backup) : nullptr;
}

bool shown_by_vm(const Catalog& catalog, const ExportRecord& record) {
    const BackupRecord* const backup = backup_of_export(catalog, record);
    return backup != nullptr && !backup->restored && backup->source == BackupSource::running;
}

std::string uri_of_export(const Engine& engine, const ExportRecord& record) {
    if (record.kind != ExportKind::nbd) return {};
    if (!record.address.empty()) return fmt::format("nbds://{}/", record.address);
    const std::string name = percent_encoded(nbd_name_of(engine.catalog(), record));
    return fmt::format("nbd+unix:///{}?socket={}", name, percent_encoded(socket_of_export(engine, record)));
}

std::string socket_of_export(const Engine& engine, const ExportRecord& record) {
    if (shown_by_vm(engine.catalog(), record)) return place_of_backup(engine, record.backup).socket();
    return place_of_export(engine, record.id).socket();
}

async::Task<StartedExportServer> start_export_server(Engine& engine, ExportRecord record,
                                                     ExportServerOptions options) {
    const ExportPlace place = place_of_export(engine, record.id);
    const UniqueFd listener = co_await make_listener(engine, record);
    TlsKind kind = TlsKind::x509;
    if (!options.tls_credentials.empty()) {
        auto copy = [from = options.tls_credentials, to = place.credentials(), owner = options.identity] {
            copy_credentials(from, to, owner);
            return kind_of_credentials(from);
        };
        kind = co_await engine.files().run(std::move(copy));
    }
    qmp::StorageDaemonOptions process(place.monitor());
    process.files = files_of(engine, record, options);
    process.max_open_files = max_open_files;
    if (::geteuid() == 0) process.identity = options.identity;
    process.arguments = nbd_arguments(listener.get(), options, place.credentials(), kind);
    process.inherit.push_back(listener.get());
    StartedExportServer started;
    started.address = address_of(record, listener.get());
    started.process = co_await start_export_process(
        engine, std::move(process), "volchain-export-" + record.id.str(), "Export " + record.id.str());
    // Certificates it has read; the file of pre-shared keys it reads for each client (gnutls_psk_set_server_credentials_file).
    auto forget = [place] { place.remove_credentials(); };
    if (kind == TlsKind::x509) co_await engine.files().run(std::move(forget));
    co_return started;
}

async::Task<std::string> open_export_layers(Engine& engine, std::shared_ptr<qmp::Session> session,
                                            ExportRecord record) {
    const qmp::NodeOptions plain;
    std::vector<PlannedLayer> layers = plan_layers(engine.catalog(), record.id, record.volume);
    const std::string top = layers.front().node;
    const BackupRecord* const backup = backup_of_export(engine.catalog(), record);
    const bool of_down_vm = backup != nullptr && backup->source == BackupSource::down;
    const qmp::Access access = of_down_vm ? qmp::Access::shared : qmp::Access::read_only;
    co_await add_layers(engine, session, std::move(layers), plain, access);
    if (!record.writable) co_return top;
    qmp::NodeOptions freeing;
    freeing.discard = true;
    const std::string name = node_name_of(record.id);
    const std::string path = place_of_export(engine, record.id).overlay();
    Json file = qmp::file_node(name + "-f", path, qmp::Access::read_write, freeing);
    Json node = qmp::format_node(name, "qcow2", std::move(file), qmp::Access::read_write, freeing);
    node = qmp::with_backing(std::move(node), top);
    (void)co_await session->execute("blockdev-add", std::move(node),
                                    async::after(engine.settings().command_timeout));
    co_return name;
}

async::Task<> show_over_nbd(Engine& engine, std::shared_ptr<qmp::Session> session, ExportRecord record,
                            std::string node, std::string bitmap) {
    Json arguments;
    arguments["type"] = "nbd";
    arguments["id"] = export_name;
    arguments["node-name"] = node;
    arguments["name"] = nbd_name_of(engine.catalog(), record);
    arguments["writable"] = record.writable;
    arguments["allocation-depth"] = true;
    if (!bitmap.empty()) {
        Json shown{{"node", node}, {"name", bitmap}};
        arguments["bitmaps"] = Json::array();
        arguments["bitmaps"].push_back(std::move(shown));
    }
    (void)co_await session->execute("block-export-add", std::move(arguments),
                                    async::after(engine.settings().command_timeout));
}

async::Task<> show_no_more(Engine& engine, std::shared_ptr<qmp::Session> session) {
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    std::vector<std::string> names{"BLOCK_EXPORT_DELETED"};
    qmp::EventQueue deleted(session, std::move(names));
    const Json answer = co_await session->execute("query-block-exports", Json::object(), deadline);
    const JsonReader shown(answer, "answer of query-block-exports", ErrorCode::qemu_failed);
    if (shown.elements().empty()) co_return;
    if (!shown.elements().front().at("shutting-down").boolean()) {
        Json arguments{{"id", export_name}, {"mode", "hard"}};
        (void)co_await session->execute("block-export-del", std::move(arguments), deadline);
    }
    (void)co_await deleted.next(deadline, "the end of an NBD export");
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_server(Engine& engine, ExportRecord record) {
    const std::string monitor = place_of_export(engine, record.id).monitor();
    auto server = co_await find_export_process(engine, monitor, record.server);
    co_await check_shown(engine, server, record);
    co_return server;
}

async::Task<> remove_export_files(Engine& engine, Uuid id) {
    auto work = [place = place_of_export(engine, id)] { place.remove(); };
    co_await engine.files().run(std::move(work));
}

}  // namespace volchain::storage
