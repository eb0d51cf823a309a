#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast a volume is cloned: beside qemu-img convert and nbdcopy, which copy the same; and by a reflink.

  tests/bench/clone.py [--rounds N] [--mib N] [--json FILE] [--directory DIR] [--part copy|reflink] [--strict]

Everything runs in the same rounds, one after the other in changing order, on one file system. The daemon is that of
VOLCHAIN_BUILD, or build/release: meson setup build/release -Dbuildtype=release -Doptimization=2 -Dtests=false.

Copy: a chain of two layers, with half of the data (1 GiB) in each, becomes one qcow2 image: by Volume.Clone, from the call
until the job has ended, which includes the flush; by qemu-img convert of the same chain; and by nbdcopy from a storage
daemon that shows the chain to one that writes a new image. The latter two are done when an fsync of the image has returned.
Nothing of the sources is in the page cache. The content is compared by digest each time.

Reflink: a volume with 10 GiB of data in a file on a loop-mounted XFS is cloned, which takes root.
"""
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests"))
os.environ.setdefault("VOLCHAIN_BUILD", os.path.join(ROOT, "build/release"))
from bench.measure import Series, ratio, timed  # noqa: E402
from bench.merge_peers import MIB, Layers, cool, digest  # noqa: E402
from bench.workbench import arguments_parser, print_host, print_targets, run_in_site  # noqa: E402
from harness import images  # noqa: E402

LIMIT = 900
CLONE, CONVERT, NBDCOPY = "volchain, Volume.Clone", "qemu-img convert", "nbdcopy, between two storage daemons"
REFLINKED_GIB = 10


def flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Clone:
    """Of the topmost volume of an imported chain."""

    def __init__(self, site, directory, paths):
        self.client = site.client
        self.pool = self.client.create_pool(os.path.basename(directory), directory)
        job = self.client.call(self.pool, "Pool", "ImportDisk", "sa{sv}", os.path.relpath(paths[-1], directory), {})
        self.made = [self.client.finish(job)]

    def run(self):
        job = self.client.call(self.made[0]["volume"], "Volume", "Clone", "soa{sv}", "copy", self.pool, {})
        disk, = self.client.finish(job)["disks"]
        self.made.append({"disk": disk, "volume": self.client.get(disk, "Disk", "Active")})

    def close(self):
        """The path of the copy; the daemon knows of nothing any more."""
        path = self.client.get(self.made[1]["volume"], "Volume", "Path")
        self.client.call(self.pool, "Pool", "Remove")
        return path


class Convert:
    def __init__(self, _site, directory, paths):
        self.source, self.target = paths[-1], f"{directory}/copy.qcow2"

    def run(self):
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", self.source, self.target], check=True, timeout=LIMIT)
        flush(self.target)

    def close(self):
        return self.target


class Nbdcopy:
    def __init__(self, _site, directory, paths):
        self.source, self.target, self.directory = paths[-1], f"{directory}/copy.qcow2", directory
        images.create(self.target, images.info(self.source)["virtual-size"])

    @contextlib.contextmanager
    def shown(self, name, path, writable):
        socket = f"{self.directory}/{name}.sock"
        word = "on" if writable else "off"
        process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"driver=qcow2,node-name=n,read-only={'off' if writable else 'on'},"
             f"discard=unmap,file.driver=file,file.filename={path}",
             "--nbd-server", f"addr.type=unix,addr.path={socket}", "--export", f"nbd,id=e,node-name=n,name=,writable={word}"])
        while not os.path.exists(socket):
            assert process.poll() is None
            time.sleep(0.001)
        try:
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()
            process.wait(LIMIT)

    def run(self):
        with self.shown("from", self.source, False) as source, self.shown("to", self.target, True) as target:
            subprocess.run(["nbdcopy", "--destination-is-zero", source, target], check=True, timeout=LIMIT)
        flush(self.target)

    def close(self):
        return self.target


def progress(text):
    print(f"\r  {text:<70}", end="", file=sys.stderr, flush=True)


def run_copy(site, arguments):
    layers = Layers(f"{site.directory}/layers", [arguments.mib // 2] * 2)
    ways = {CLONE: Clone, CONVERT: Convert, NBDCOPY: Nbdcopy}
    series = {name: Series() for name in ways}
    for count in range(arguments.rounds):
        site.machine.look()
        for name in random.sample(list(ways), len(ways)):
            progress(f"copy, round {count + 1} of {arguments.rounds}: {name}")
            directory = site.new_directory()
            work = ways[name](site, directory, layers.copy(f"{directory}/chain"))
            cool(f"{directory}/chain")
            series[name].add(timed(work.run))
            if digest(work.close()) != layers.digest:
                raise AssertionError(f"{name}: the content is not what it was")
            shutil.rmtree(directory)
    progress("")
    return series


@contextlib.contextmanager
def loop_mounted(directory, gib):
    image, place = f"{directory}/xfs.img", f"{directory}/xfs"
    with open(image, "wb") as f:
        f.truncate(gib << 30)
    os.mkdir(place)
    images.run("mkfs.xfs", "-q", "-m", "reflink=1", image, env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    images.run("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        images.run("umount", place)
        os.unlink(image)


def run_reflink(site, arguments):
    series = Series()
    with loop_mounted(site.directory, REFLINKED_GIB + 2) as place:
        path = images.create(f"{place}/large.qcow2", REFLINKED_GIB << 30, options="preallocation=falloc")
        for gib in range(REFLINKED_GIB):
            progress(f"reflink: GiB {gib + 1} of {REFLINKED_GIB} is written")
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {gib + 1} {gib}G 512M",
                            "-c", f"write -q -P {gib + 101} {gib * 1024 + 512}M 512M", path], check=True, timeout=LIMIT)
        subprocess.run(["sync", "-f", place], check=True, timeout=LIMIT)
        for count in range(arguments.rounds):
            site.machine.look()
            progress(f"reflink, round {count + 1} of {arguments.rounds}")
            directory = f"{place}/round{count}"
            os.mkdir(directory)
            subprocess.run(["cp", "--reflink=always", path, f"{directory}/large.qcow2"], check=True, timeout=LIMIT)
            work = Clone(site, directory, [f"{directory}/large.qcow2"])
            series.add(timed(work.run))
            subprocess.run(["cmp", path, work.close()], check=True, timeout=LIMIT) if count == 0 else work.close()
            shutil.rmtree(directory)
    progress("")
    return series


def run(site, arguments):
    results, targets, all_series = {"host": site.describe()}, [], {}
    if arguments.part in (None, "copy"):
        series = run_copy(site, arguments)
        all_series.update(series)
        faster = min(CONVERT, NBDCOPY, key=lambda name: series[name].median)
        # As fast as 0.9 of the other's speed: 1 / 0.9 of its time.
        targets.append((f"Volume.Clone, times {faster}", ratio(series[CLONE], series[faster]), 1 / 0.9))
    if arguments.part in (None, "reflink"):
        if os.geteuid() == 0:
            all_series[f"reflink of {REFLINKED_GIB} GiB on XFS"] = run_reflink(site, arguments)
            targets.append((f"reflink of {REFLINKED_GIB} GiB, seconds",
                            all_series[f"reflink of {REFLINKED_GIB} GiB on XFS"].median, 0.5))
        else:
            print("*** REFLINKS WERE NOT MEASURED: to mount takes root ***")
    print(f"\nMilliseconds, median (80 of 100 rounds); {arguments.mib} MiB are copied")
    for name, values in all_series.items():
        print(f"  {name:<40} {values.text()}")
    site.without_libvirt = ""  # it clones no chains
    print_host(site, results)
    results["series"] = {name: values.json() for name, values in all_series.items()}
    results["targets"] = print_targets(targets)
    return results


def main():
    parser = arguments_parser(__doc__, ["copy", "reflink"], 7)
    parser.add_argument("--mib", type=int, default=1024, help="how much is copied (%(default)s)")
    run_in_site(parser.parse_args(), False, run)


if __name__ == "__main__":
    main()
