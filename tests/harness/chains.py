# SPDX-License-Identifier: MIT
"""Chains of images whose layers differ in what is written to them, and what the daemon says about them."""
from harness import images

MIB = 1 << 20


def make_chain(directory, name, layers=1, size=64 * MIB, base_format="qcow2", options=None):
    """`layers` images, base first: layer N has pattern N+1 in the N-th MiB. The paths."""
    paths = []
    for number in range(layers):
        fmt = base_format if number == 0 else "qcow2"
        path = f"{directory}/{name}.{number}.{fmt}"
        below = f"{name}.{number - 1}.{base_format if number == 1 else 'qcow2'}" if number else None
        images.create(path, None if number else size, backing=below, fmt=fmt,
                      backing_format=base_format if number == 1 else "qcow2",
                      options=options if fmt == "qcow2" else None)
        images.write(path, number + 1, number * MIB, MIB, fmt=fmt)
        paths.append(path)
    return paths


def disk_by_target(client, vm, target):
    """(path, properties) of the VM's disk that is the guest's device `target`."""
    found = [(path, p) for path, p in client.of_kind("disk").items() if p["VM"] == vm and p["Target"] == target]
    assert len(found) == 1, found
    return found[0]


def volume_at(client, path):
    """(object, properties) of the volume whose file this is."""
    found = [(object_, p) for object_, p in client.of_kind("volume").items() if p["Path"] == path]
    assert len(found) == 1, (path, [p["Path"] for p in client.of_kind("volume").values()])
    return found[0]


def volume_chain(client, volume):
    """Paths of the files of a volume and all below it, as the daemon says."""
    paths = []
    while volume != "/":
        properties = client.get_all(volume, "Volume")
        paths.append(properties["Path"])
        volume = properties["Backing"]
    return paths
