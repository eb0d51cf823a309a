# SPDX-License-Identifier: MIT
"""What tests of operations on disks have in common: the calls, and what images have to show."""
import os

import pytest

from harness import images
from harness.chains import make_chain
from harness.client import DBusError, variants


def resize(client, disk, size, **options):
    return client.call(disk, "Disk", "Resize", "ta{sv}", size, variants(options))


def delete(client, disk, **options):
    return client.call(disk, "Disk", "Delete", "a{sv}", variants(options))


def attach(client, disk, vm, target="", **options):
    return client.call(disk, "Disk", "Attach", "osa{sv}", vm, target, variants(options))


def detach(client, disk, **options):
    return client.call(disk, "Disk", "Detach", "a{sv}", variants(options))


def snapshot(client, disk, name="", **options):
    return client.call(disk, "Disk", "CreateSnapshot", "sa{sv}", name, variants(options))


def overlay(client, disk, **options):
    return client.finish(client.call(disk, "Disk", "CreateOverlay", "a{sv}", variants(options)))["volume"]


def active(client, disk):
    return client.get(disk, "Disk", "ActivePath")


def import_chain(client, pool, name, layers=1, bitmaps=(), **options):
    """(disk, paths): a floating disk in the pool's directory, of images that make_chain() makes."""
    paths = make_chain(client.get(pool, "Pool", "Path"), name, layers, **options)
    for bitmap in bitmaps:
        images.run("qemu-img", "bitmap", "--add", paths[-1], bitmap)
    given = {"name": name} | ({"format": "raw"} if paths[-1].endswith(".raw") else {})
    job = client.call(pool, "Pool", "ImportDisk", "sa{sv}", os.path.basename(paths[-1]), variants(given))
    return client.finish(job)["disk"], paths


def refused(call):
    """(error, message) of a call that has to fail."""
    with pytest.raises(DBusError) as error:
        call()
    return error.value.short, error.value.message


def patterns(path, *expected):
    """Each (pattern, offset, length) is what the image shows there."""
    commands = [word for pattern, offset, length in expected for word in ("-c", f"read -P {pattern} {offset} {length}")]
    output = images.run("qemu-io", "-f", "raw" if path.endswith(".raw") else "qcow2", "-r", "-U", *commands, path)
    assert "verification failed" not in output, output
