#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Records what a real QEMU answers about its disks: tests/unit/storage/recordings/*.json.

Each file is what read_live_disks() asks for: {"command": answer}, and {"qom-get": {"path property": answer}}.
The directory of the images is renamed to /pool. The unit tests answer with it, so that how records are made
of a block graph is held against QEMU's words without a QEMU, and against those of other versions once they
are recorded.

  blockdev   root: base.raw <- root.1 <- root.2, spelled out node by node, the base without a format node;
             data.1 beneath a throttle filter; twin-a and twin-b over one base; formats and places that are
             not for volchain: vmdk, nbd; a read-only disk, a CD
  drive      legacy -drive with names that QEMU made up: root.2 with its chain, plain.raw, an empty CD drive
"""
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))
from harness import images  # noqa: E402
from harness.channels import CommandError  # noqa: E402
from harness.qemu import Qemu  # noqa: E402


def file_node(name, path, **options):
    return {"driver": "file", "node-name": name, "filename": path, **options}


def qcow2_node(name, path, backing=None, **options):
    return {"driver": "qcow2", "node-name": name, "file": file_node(name + "-file", path),
            "backing": backing, **options}


def make_images(directory):
    images.create(f"{directory}/base.raw", "4M", fmt="raw")
    images.create(f"{directory}/root.1.qcow2", None, "base.raw", "raw")
    images.create(f"{directory}/root.2.qcow2", None, "root.1.qcow2")
    for name in ("data.1.qcow2", "twins.qcow2", "read-only.qcow2"):
        images.create(f"{directory}/{name}", "4M")
    for name in ("twin-a.qcow2", "twin-b.qcow2"):
        images.create(f"{directory}/{name}", None, "twins.qcow2")
    images.create(f"{directory}/foreign.vmdk", "4M", fmt="vmdk")
    for name in ("plain.raw", "cd.iso"):
        images.create(f"{directory}/{name}", "1M", fmt="raw")


def disk(node, blockdevs, **device):
    return {"path": "", "node": node, "blockdevs": blockdevs, "serial": node, "device": device}


def blockdev(directory, export):
    at = lambda name: f"{directory}/{name}"  # noqa: E731
    below = {"read-only": True}
    root = [file_node("base", at("base.raw"), **{"auto-read-only": True}),
            qcow2_node("root1", at("root.1.qcow2"), "base", **below),
            qcow2_node("root", at("root.2.qcow2"), "root1", discard="unmap", cache={"direct": True})]
    data = [qcow2_node("data1", at("data.1.qcow2")),
            {"driver": "throttle", "node-name": "data", "throttle-group": "g", "file": "data1"}]
    twins = [[qcow2_node("twins" + letter, at("twins.qcow2"), **below),
              qcow2_node("twin" + letter, at(f"twin-{letter}.qcow2"), "twins" + letter)] for letter in "ab"]
    vmdk = [{"driver": "vmdk", "node-name": "vmdk", "file": file_node("vmdk-file", at("foreign.vmdk"))}]
    nbd = [{"driver": "raw", "node-name": "nbd", "file": {
        "driver": "nbd", "node-name": "nbd-client", "server": {"type": "unix", "path": export}}}]
    read_only = [qcow2_node("ro", at("read-only.qcow2"), **below)]
    disks = [disk("root", root), disk("data", data, **{"share-rw": True}), disk("twina", twins[0]),
             disk("twinb", twins[1]), disk("vmdk", vmdk), disk("nbd", nbd), disk("ro", read_only)]
    cd = {"driver": "raw", "node-name": "cd", **below, "file": file_node("cd-file", at("cd.iso"), **below)}
    return disks, ["-object", "throttle-group,id=g", "-blockdev", json.dumps(cd),
                   "-device", "ide-cd,drive=cd,id=cd0"]


def drive(directory, _export):
    disks = [{"path": f"{directory}/root.2.qcow2", "drive": True,
              "options": ",cache=none,discard=unmap,detect-zeroes=unmap"},
             {"path": f"{directory}/plain.raw", "drive": True, "fmt": "raw", "serial": ""}]
    return disks, ["-drive", "if=none,id=cd,media=cdrom", "-device", "ide-cd,drive=cd"]


def record(qemu):
    answers = {"query-named-block-nodes": qemu.execute("query-named-block-nodes", flat=True),
               "x-debug-query-block-graph": qemu.execute("x-debug-query-block-graph"),
               "query-block": qemu.execute("query-block"), "qom-get": {}}
    for block in answers["query-block"]:
        path = block.get("qdev", "")
        path = path if path.startswith("/") else f"/machine/peripheral/{path}"
        for device in (path, path.removesuffix("/virtio-backend")):
            for name in ("serial", "share-rw"):
                with contextlib.suppress(CommandError):  # it has none of that name
                    value = qemu.execute("qom-get", path=device, property=name)
                    answers["qom-get"][f"{device} {name}"] = value
    return answers


def main():
    directory = tempfile.mkdtemp(prefix="vc-")
    export, pid = f"{directory}/nbd.sock", f"{directory}/nbd.pid"
    try:
        make_images(directory)
        images.run("qemu-nbd", "--fork", "--pid-file", pid, "-k", export, "-f", "raw", "-t",
                   f"{directory}/plain.raw")
        for make in (blockdev, drive):
            if make is drive:  # which has the same image
                os.kill(int(pathlib.Path(pid).read_text()), signal.SIGTERM)
            disks, extra = make(directory, export)
            qemu = Qemu(f"{directory}/vm-{make.__name__}", disks, extra=extra).start()
            try:
                text = json.dumps(record(qemu), indent=1).replace(directory, "/pool")
            finally:
                qemu.kill()
            (HERE / f"{make.__name__}.json").write_text(text + "\n")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
