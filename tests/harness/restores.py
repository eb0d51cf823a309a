# SPDX-License-Identifier: MIT
"""Restores: how a disk in the making is begun, filled as backup programs do it, and what must not be left of it."""
import os

import nbd

from harness.client import ROOT, Variant, variants

MIB = 1 << 20


def begin(client, name, pool, size, **options):
    """The job of a Manager.RestoreDisk."""
    for option in ("allow_uid", "max_connections"):
        if isinstance(options.get(option), int):
            options[option] = Variant("u", options[option])
    return client.call(ROOT, "Manager", "RestoreDisk", "sota{sv}", name, pool, size, variants(options))


def start(client, name, pool, size, **options):
    """(restore, URI)"""
    result = client.finish(begin(client, name, pool, size, **options))
    return result["backup"], result["uri"]


def fill(uri, data, at=0):
    """Writes what is not zero."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for offset in range(0, len(data), MIB):
        piece = data[offset:offset + MIB]
        if piece.strip(b"\0"):
            handle.pwrite(bytes(piece), at + offset)
    handle.flush()
    handle.shutdown()


def leftovers(pool):
    """Image files in a pool's directory."""
    return sorted(name for name in os.listdir(pool) if not name.startswith("."))


__all__ = ["begin", "fill", "leftovers", "start"]
