# SPDX-License-Identifier: MIT
"""Exports over TCP: never without TLS, and nobody without the right certificate or key gets in."""
import os

import nbd
import pytest

from harness import exports, images
from harness.disks import refused
from harness.tree import Tree


def certtool(directory, *arguments, template=""):
    path = f"{directory}/template"
    with open(path, "w") as f:
        f.write(template)
    images.run("certtool", *arguments, "--template", path)


class Authority:
    """A directory with a CA, and below it credentials that it signed: server/, client/."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory)
        self.key, self.certificate = f"{directory}/ca-key.pem", f"{directory}/ca-cert.pem"
        images.run("certtool", "--generate-privkey", "--outfile", self.key)
        certtool(directory, "--generate-self-signed", "--load-privkey", self.key, "--outfile", self.certificate,
                 template="cn = CA\nca\ncert_signing_key\n")
        self.server = self._sign("server", "tls_www_server\nip_address = 127.0.0.1\n")
        self.client = self._sign("client", "tls_www_client\n")

    def _sign(self, name, more):
        directory = f"{self.directory}/{name}"
        os.makedirs(directory)
        images.run("certtool", "--generate-privkey", "--outfile", f"{directory}/{name}-key.pem")
        certtool(directory, "--generate-certificate", "--load-ca-privkey", self.key, "--load-ca-certificate",
                 self.certificate, "--load-privkey", f"{directory}/{name}-key.pem", "--outfile",
                 f"{directory}/{name}-cert.pem", template=f"cn = {name}\nsigning_key\nencryption_key\n{more}")
        with open(self.certificate) as source, open(f"{directory}/ca-cert.pem", "w") as copy:
            copy.write(source.read())
        return directory


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(str(tmp_path_factory.mktemp("tls") / "ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(str(tmp_path_factory.mktemp("tls") / "others"))


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus)
    tree.snapshot("s1")
    yield tree
    assert exports.leftovers(daemon.directory) == []


def make(client, tree, **options):
    return exports.make(client, tree.snapshots["s1"], tree.disks[0], **options)


def connect(client, export, certificates=None, username=None, psk=None, tls=True):
    """A handle, connected."""
    host, port = client.get(export, "Export", "Uri").removeprefix("nbds://").rstrip("/").rsplit(":", 1)
    handle = nbd.NBD()
    if tls:
        handle.set_tls(nbd.TLS_REQUIRE)
    if certificates:
        handle.set_tls_certificates(certificates)
    if psk:
        handle.set_tls_username(username)
        handle.set_tls_psk_file(psk)
    handle.connect_tcp(host, port)
    return handle


def test_certificates(client, tree, authority, stranger, daemon):
    expected = images.digest(client.get(tree.volume_of("s1"), "Volume", "Path"))
    export = make(client, tree, address="127.0.0.1:0", tls_credentials=authority.server)
    shown = client.get_all(export, "Export")
    assert shown["Uri"].startswith("nbds://127.0.0.1:") and shown["Path"] == ""
    handle = connect(client, export, authority.client)
    assert handle.get_tls_negotiated() and handle.get_size() == 64 << 20
    exports.connections(client, export, 1)
    handle.shutdown()
    host, port = shown["Uri"].removeprefix("nbds://").rstrip("/").split(":")

    def right(handle):
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_certificates(authority.client)
        handle.connect_tcp(host, port)
    assert exports.digest_by_libnbd(right) == expected
    for what in ({"certificates": stranger.client}, {"tls": False}, {}):
        with pytest.raises(nbd.Error):
            connect(client, export, **what).pread(512, 0)
    # The key is nowhere but in the storage daemon's memory.
    assert not any("tls" in names for _, names, _ in os.walk(f"{daemon.directory}/run"))
    error, message = refused(lambda: client.call(export, "Export", "Open"))
    assert error == "Unsupported" and "TLS" in message
    exports.stop(client, export)
    with pytest.raises(nbd.Error):
        connect_to(host, port)


def connect_to(host, port):
    handle = nbd.NBD()
    handle.connect_tcp(host, port)


def test_pre_shared_keys(client, tree, directory):
    for name in ("right", "wrong"):
        os.makedirs(f"{directory}/{name}")
        images.run("psktool", "-u", "backup", "-p", f"{directory}/{name}/keys.psk")
    export = make(client, tree, address="127.0.0.1:0", tls_credentials=f"{directory}/right")
    handle = connect(client, export, username="backup", psk=f"{directory}/right/keys.psk")
    assert handle.pread(512, 0)
    handle.shutdown()
    for what in ({"username": "backup", "psk": f"{directory}/wrong/keys.psk"}, {"tls": False}):
        with pytest.raises(nbd.Error):
            connect(client, export, **what).pread(512, 0)
    exports.stop(client, export)


def test_found_again(client, tree, authority, daemon, bus):
    export = make(client, tree, address="127.0.0.1:0", tls_credentials=authority.server)
    daemon.kill()
    daemon.start()
    again = type(client)(bus.address)
    handle = connect(again, export, authority.client)
    assert handle.pread(512, 0)
    handle.shutdown()
    exports.stop(again, export)
    again.close()


def test_what_is_refused(client, tree, authority, directory):
    def error_of(**options):
        return refused(lambda: exports.begin(client, tree.snapshots["s1"], tree.disks[0], **options))
    error, message = error_of(address="127.0.0.1:10809")
    assert error == "InvalidArgument" and "TLS" in message
    assert error_of(tls_credentials=authority.server)[0] == "InvalidArgument"
    assert error_of(address="localhost:1", tls_credentials=authority.server)[0] == "InvalidArgument"
    assert error_of(address="127.0.0.1:1", tls_credentials="tls")[0] == "InvalidArgument"
    assert error_of(address="127.0.0.1:1", tls_credentials=authority.server, allow_uid=2)[0] == "InvalidArgument"

    def begin(**options):
        return client.failure(exports.begin(client, tree.snapshots["s1"], tree.disks[0], **options))
    error, message = begin(address="127.0.0.1:0", tls_credentials=directory)
    assert error == "InvalidArgument" and "keys.psk" in message
    error, message = begin(address="127.0.0.1:0", tls_credentials=f"{directory}/none")
    assert error == "NotFound" and "none" in message
    error, message = begin(address="192.0.2.77:0", tls_credentials=authority.server)
    assert error == "Unsupported" and "192.0.2.77" in message
    first = make(client, tree, address="127.0.0.1:0", tls_credentials=authority.server)
    taken = client.get(first, "Export", "Uri").removeprefix("nbds://").rstrip("/")
    error, message = begin(address=taken, tls_credentials=authority.server)
    assert error == "InUse" and taken in message
    exports.stop(client, first)
    again = make(client, tree, address=taken, tls_credentials=authority.server)
    exports.stop(client, again)
