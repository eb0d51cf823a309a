# SPDX-License-Identifier: MIT
"""Exports: how they are made, read by the programs that people read them with, and what they must not leave behind."""
import contextlib
import json
import os
import socket
import subprocess
import time

import nbd

from harness import digest, images
from harness.client import Variant, variants

MIB = 1 << 20


def options_of(options):
    """a{sv} of keyword arguments; users and numbers of connections are u, VMs o."""
    for name in ("allow_uid", "max_connections"):
        if isinstance(options.get(name), int):
            options[name] = Variant("u", options[name])
    if isinstance(options.get("vm"), str):
        options["vm"] = Variant("o", options["vm"])
    return variants(options)


def begin(client, snapshot, disk, **options):
    """The job of a Snapshot.Export."""
    return client.call(snapshot, "Snapshot", "Export", "oa{sv}", disk, options_of(options))


def make(client, snapshot, disk, **options):
    """An export; its object."""
    return client.finish(begin(client, snapshot, disk, **options))["export"]


def make_of_volume(client, volume, **options):
    return client.finish(client.call(volume, "Volume", "Export", "a{sv}", options_of(options)))["export"]


def stop(client, export, **options):
    client.finish(client.call(export, "Export", "Stop", "a{sv}", variants(options)))


def uri(client, export):
    return client.get(export, "Export", "Uri")


def gone(client, export, timeout=30):
    """Until the export is no more."""
    end = time.monotonic() + timeout
    while export in client.of_kind("export"):
        assert time.monotonic() < end, f"{export} is still there: {client.get_all(export, 'Export')}"
        time.sleep(0.02)


def connections(client, export, expected, timeout=10):
    """Until so many clients are connected: nothing is told when one comes."""
    end = time.monotonic() + timeout
    while (found := client.get(export, "Export", "Connections")) != expected:
        assert time.monotonic() < end, f"{found} connections, not {expected}"
        time.sleep(0.02)


# --- reading ---

def digest_by_libnbd(connect):
    """Of what is shown. connect(handle) connects it."""
    handle = nbd.NBD()
    connect(handle)
    total = digest.Digest()
    size = handle.get_size()
    for offset in range(0, size, MIB):
        total.update(handle.pread(min(MIB, size - offset), offset))
    handle.shutdown()
    return total.hexdigest()


def digest_by_uri(address):
    return digest_by_libnbd(lambda handle: handle.connect_uri(address))


def digest_by_nbdcopy(address, directory):
    path = f"{directory}/copied.raw"
    try:
        images.run("nbdcopy", address, path)
        return digest_of_file(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def digest_by_convert(address, directory):
    path = f"{directory}/converted.raw"
    try:
        images.run("qemu-img", "convert", "-f", "raw", "-O", "raw", address, path)
        return digest_of_file(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def digest_by_nbdfuse(address, directory):
    """Through the kernel's FUSE, as a file."""
    path = f"{directory}/fused"
    with open(path, "wb"):
        pass
    process = subprocess.Popen(["nbdfuse", path, address], stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not os.stat(path).st_size:
            assert process.poll() is None and time.monotonic() < end, "nbdfuse does not show it"
            time.sleep(0.01)
        return digest_of_file(path)
    finally:
        subprocess.run(["umount", path], check=True, timeout=30)
        process.wait(30)
        os.unlink(path)


def digest_of_file(path):
    return digest.of_file(path)


def all_digests(address, directory):
    """What each of the programs reads."""
    return {digest_by_uri(address), digest_by_nbdcopy(address, directory), digest_by_convert(address, directory),
            digest_by_nbdfuse(address, directory)}


def info(address):
    return json.loads(images.run("nbdinfo", "--json", address))["exports"][0]


def extents(address, context):
    """[(offset, length, flags)] of a meta context, neighbours with the same flags as one."""
    handle = nbd.NBD()
    handle.add_meta_context(context)
    handle.connect_uri(address)
    assert handle.can_meta_context(context), context
    found, size, offset = [], handle.get_size(), 0
    while offset < size:
        got = []
        handle.block_status(size - offset, offset,
                            lambda name, at, entries, error: got.extend(entries) if name == context else None)
        for length, flags in zip(got[::2], got[1::2]):
            length = min(length, size - offset)
            if found and found[-1][2] == flags:
                found[-1] = (found[-1][0], found[-1][1] + length, flags)
            else:
                found.append((offset, length, flags))
            offset += length
    handle.shutdown()
    return found


def connects(path, uid=None):
    """Whether a user gets a connection, and the NBD server's greeting."""
    script = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]);"
              "sys.exit(s.recv(8) != b'NBDMAGIC')")
    words = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return subprocess.run([*words, "/usr/bin/python3", "-c", script, path], capture_output=True,
                          timeout=30).returncode == 0


def opened(client, export):
    """A socket that Export.Open hands over."""
    descriptor = client.call(export, "Export", "Open")
    return descriptor.to_socket()


def digest_of_socket(connection):
    return digest_by_libnbd(lambda handle: handle.connect_socket(connection.detach()))


# --- what must not be left behind ---

def sockets_below(directory):
    """{inode: path} of all Unix sockets with a path there."""
    found = {}
    with open("/proc/net/unix") as table:
        for line in table:
            fields = line.split(None, 7)
            if len(fields) == 8 and fields[7].startswith(directory + "/"):
                found[int(fields[6])] = fields[7].strip()
    return found


def servers(directory):
    """The storage daemons that have a socket or a file below the directory: {pid}"""
    sockets = sockets_below(directory)
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            with open(f"/proc/{pid}/comm") as f:
                if f.read().strip() != "qemu-storage-da":
                    continue
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith(directory + "/") or any(f"[{inode}]" in target for inode in sockets):
                    found.add(int(pid))
    return found


def server_of(directory, export):
    """The pid of the storage daemon of one export."""
    identity = export.rsplit("/", 1)[1].replace("_", "-")
    [pid] = servers(f"{directory}/run/exports/{identity}")
    return pid


def mounts_below(directory):
    with open("/proc/mounts") as f:
        return [line.split()[1] for line in f if line.split()[1].startswith(directory + "/")]


def end_all(directory):
    """The hard way: for tests that are over."""
    for pid in servers(directory):
        os.kill(pid, 9)
    for path in mounts_below(directory):
        subprocess.run(["umount", "-l", path], check=False, timeout=30)


def leftovers(directory):
    """Everything that exports of a daemon with this directory have made: to be empty."""
    found = [f"process {pid}" for pid in servers(directory)] + [f"mount {path}" for path in mounts_below(directory)]
    for place in ("run/exports", "state/exports"):
        with contextlib.suppress(FileNotFoundError):
            found += [f"{directory}/{place}/{name}" for name in os.listdir(f"{directory}/{place}")]
    return found


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
