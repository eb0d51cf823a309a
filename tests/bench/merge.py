#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long it takes until layers of a disk are one, beside others who do the same with the same images; what the direction
does; what deep chains cost; and how long a guest waits for its writes meanwhile.

  tests/bench/merge.py [--rounds N] [--layers N] [--mib N] [--json FILE] [--directory DIR]
                       [--part range|direction|deep|stall] [--no-libvirt]

Everything runs in the same rounds, one after the other in changing order, on one file system. The daemon is that of
VOLCHAIN_BUILD, or build/release: meson setup build/release -Dbuildtype=release -Doptimization=2 -Dtests=false.

Range: so many layers (10) with so many MiB (100) each are merged into the one below them. By volchain as one job, and as
snapshots deleted one after the other, running and down; by virsh blockcommit, one after the other and all at once, running;
by qemu-img commit, the same, which needs the VM down. Each has a copy of the same images, none of it in the page cache;
each is done when an fsync of what is left has returned, and files that nobody needs are gone. The content is compared by
digest each time.

Direction: two layers in the middle, one of them a hundred times as large as the other: merged as volchain chooses, and the
other way.

Deep: snapshots of a VM with 100 of them listed, one taken and one in the middle deleted, beside a VM with two of them. The
same by virsh.

Stall: a guest that does nothing but write, without a flush, while its active layer is written down: the longest time from
one write to the next, while that goes on and before.
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
from bench.merge_peers import (MIB, Layers, QemuImg, Virsh, VolchainDisk, VolchainMerge, VolchainRange,  # noqa: E402
                               VolchainSnapshots, cool, digest)
from bench.workbench import arguments_parser, print_host, print_targets, run_in_site  # noqa: E402
from harness import images  # noqa: E402
from harness.busy_guest import BusyGuest, check_content  # noqa: E402
from harness.daemon import BUILD  # noqa: E402

DEEP = 100
BASE_MIB = 256


def progress(text):
    print(f"\r  {text:<70}", end="", file=sys.stderr, flush=True)


def measure(site, layers, ways, rounds, title):
    """{way: Series}. `ways`: {name: what makes the work, (site, directory, layers)}"""
    series = {name: Series() for name in ways}
    for count in range(rounds):
        site.machine.look()
        for name in random.sample(list(ways), len(ways)):
            progress(f"{title}, round {count + 1} of {rounds}: {name}")
            directory = site.new_directory()
            work = ways[name](site, directory, layers)
            cool(directory)
            series[name].add(timed(work.run))
            path = work.close()
            if digest(path) != layers.digest:
                raise AssertionError(f"{name}: the content is not what it was")
            shutil.rmtree(directory)
    progress("")
    return series


# --- many layers into one ---

ONE_JOB, ONE_JOB_DOWN = "volchain, one job", "volchain, one job, down"
BY_VIRSH, BY_QEMU_IMG = "virsh blockcommit, one by one", "qemu-img commit, one by one, down"


def range_ways(site):
    ways = {
        ONE_JOB: lambda *at: VolchainRange(*at, live=True),
        "volchain, snapshots one by one": lambda *at: VolchainSnapshots(*at, live=True),
        ONE_JOB_DOWN: lambda *at: VolchainRange(*at, live=False),
        "volchain, snapshots one by one, down": lambda *at: VolchainSnapshots(*at, live=False),
        BY_QEMU_IMG: lambda *at: QemuImg(*at, at_once=False),
        "qemu-img commit, all at once, down": lambda *at: QemuImg(*at, at_once=True),
    }
    if site.libvirt:
        ways[BY_VIRSH] = lambda *at: Virsh(*at, at_once=False)
        ways["virsh blockcommit, all at once"] = lambda *at: Virsh(*at, at_once=True)
    return ways


def run_range(site, arguments, report):
    layers = Layers(f"{site.directory}/range", [BASE_MIB] + [arguments.mib] * arguments.layers)
    series = measure(site, layers, range_ways(site), arguments.rounds, "range")
    report.table(f"{arguments.layers} layers of {arguments.mib} MiB into the one below", series)
    report.target("one job, times qemu-img commit one by one (down)", ratio(series[ONE_JOB_DOWN], series[BY_QEMU_IMG]), 1.0)
    if site.libvirt:
        report.target("one job, times virsh blockcommit one by one", ratio(series[ONE_JOB], series[BY_VIRSH]), 1.0)
    shutil.rmtree(layers.directory)


# --- two layers of different size ---

def direction_ways():
    return {f"{name}{'' if live else ', down'}": lambda *at, live=live, direction=direction: VolchainMerge(*at, live, direction)
            for live in (True, False)
            for name, direction in (("auto", "auto"), ("down into the lower one", "commit"), ("up into the upper one", "stream"))}


def run_direction(site, arguments, report):
    large = arguments.layers * arguments.mib
    for title, middle, upper, wrong in (("the lower one is larger", large, large // 100, "up into the upper one"),
                                        ("the upper one is larger", large // 100, large, "down into the lower one")):
        layers = Layers(f"{site.directory}/direction", [64, middle, upper, 0])
        series = measure(site, layers, direction_ways(), arguments.rounds, title)
        report.table(f"{middle} MiB and, above them, {upper} MiB become one", series)
        for where in ("", ", down"):
            report.target(f"auto, times the wrong direction; {title}{where}",
                          ratio(series[f"auto{where}"], series[f"{wrong}{where}"]), 0.2)
        shutil.rmtree(layers.directory)


# --- deep chains ---

class DeepVolchain:
    """A VM with so many snapshots."""
    name = "volchain"

    def __init__(self, site, depth):
        self.directory = site.new_directory()
        path = images.create(f"{self.directory}/disk.qcow2", 1024 * MIB)
        self.disk, self.address = VolchainDisk(site, self.directory, [path], live=True), site.bus.address
        self.client, self.snapshots = site.client, []
        for _ in range(depth):
            self.snapshot()

    def list(self):
        """All objects, by a client of D-Bus that is started for it."""
        self._run("busctl", "--system", "call", "org.volchain1", "/org/volchain1", "org.freedesktop.DBus.ObjectManager",
                  "GetManagedObjects")

    def list_table(self):
        self._run(f"{BUILD}/client/volchainctl", "--no-pager", "volume", "list")

    def _run(self, *argv):
        subprocess.run(argv, check=True, timeout=60, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.address))

    def snapshot(self):
        self.snapshots.append(self.disk.finish(self.client.create_snapshot(self.disk.vm))["snapshot"])

    def delete(self):
        snapshot = self.snapshots.pop(len(self.snapshots) // 2 - 1)
        self.disk.finish(self.client.call(snapshot, "Snapshot", "Delete", "a{sv}", {}))

    def close(self):
        self.disk.close()


class DeepVirsh:
    name = "virsh"

    def __init__(self, site, depth):
        self.host, self.directory, self.count = site.libvirt, site.new_directory(), 0
        path = images.create(f"{self.directory}/disk.qcow2", 1024 * MIB)
        self.domain = self.host.start_domain(os.path.basename(self.directory), [path])
        self.paths = [path]
        for _ in range(depth):
            self.snapshot()

    def list(self):
        self.host.virsh("dumpxml", self.domain.name())

    def list_table(self):
        self.host.virsh("snapshot-list", self.domain.name())

    def snapshot(self):
        self.count += 1
        self.host.virsh("snapshot-create-as", "--domain", self.domain.name(), "--name", f"s{self.count}", "--disk-only",
                        "--atomic")
        self.paths += self.host.disk_files(self.domain)

    def delete(self):
        """Its layer goes; libvirt 9 cannot delete the snapshot."""
        middle = len(self.paths) // 2
        below, path = self.paths[middle - 1:middle + 1]
        self.host.virsh("blockcommit", self.domain.name(), "vda", "--base", below, "--top", path, "--wait")
        os.unlink(path)
        self.paths.remove(path)

    def close(self):
        self.host.end_domain(self.domain)


DEEP_WORK = {"list everything": "list", "list, as a table": "list_table", "take a snapshot": "snapshot",
             "delete one in the middle": "delete"}


def run_deep(site, arguments, report):
    with contextlib.ExitStack() as stack:
        vms = {}
        for peer in [DeepVolchain] + ([DeepVirsh] if site.libvirt else []):
            for depth in (2, DEEP):
                progress(f"{peer.name}: {depth} snapshots are taken")
                try:
                    vm = peer(site, depth)
                except Exception as error:  # libvirt has limits of its own
                    if peer is DeepVolchain:
                        raise
                    report.say(f"*** {peer.name} HAS NO CHAIN OF {depth}: {error} ***")
                    continue
                stack.callback(vm.close)
                vms[peer.name, depth] = vm
        series = {(work, *key): Series() for work in DEEP_WORK for key in vms}
        for count in range(3 * arguments.rounds):
            site.machine.look()
            for key in random.sample(list(vms), len(vms)):
                progress(f"deep, round {count + 1} of {3 * arguments.rounds}: {key[0]}, {key[1]} snapshots")
                for work, method in DEEP_WORK.items():
                    series[work, *key].add(timed(getattr(vms[key], method)))
        progress("")
    for work in DEEP_WORK:
        report.table(work, {f"{name}, {depth} snapshots": series[work, name, depth] for name, depth in vms})
    # What is listed is fifty times as much.
    for work, limit in (("take a snapshot", 2.0), ("delete one in the middle", 3.0)):
        report.target(f"{work}: {DEEP} snapshots, times 2 snapshots",
                      ratio(series[work, "volchain", DEEP], series[work, "volchain", 2]), limit)


# --- the guest's writes ---

def run_stall(site, arguments, report):
    for block in (4096, 65536):
        merged, before, during = Series(), Series(), Series()
        for count in range(arguments.rounds):
            progress(f"stall, {block} bytes, round {count + 1} of {arguments.rounds}")
            site.machine.look()
            stall(site, block, merged, before, during)
        report.table(f"a guest that writes {block} bytes at a time, all the time", {
            "merge of its active layer": merged, "longest wait for a write, before": before,
            "longest wait for a write, meanwhile": during})
        report.target(f"longest wait of the guest for a write of {block} bytes, s", during.median, 1.0)
    progress("")


def stall(site, block, merged, before, during):
    directory = site.new_directory()
    path = BusyGuest.make(f"{directory}/disk.qcow2", 1024 * MIB, block=block)
    images.write(path, 0x11, 512 * MIB, 256 * MIB)
    guest = BusyGuest(f"{directory}/vm", [path], block=block).start()
    try:
        vm = site.client.register_vm(os.path.basename(directory), qmp_socket=guest.qmp)
        (disk,) = site.client.get(vm, "VM", "Disks")
        snapshot = site.client.finish(site.client.create_snapshot(vm, quiesce="off"))["snapshot"]
        guest.write("dev0", 0x22, 256 * MIB, 128 * MIB)
        since = time.monotonic()
        guest.wait_writing(minimum=3)
        before.add(guest.longest_gap(since))
        since = time.monotonic()
        job = site.client.call(snapshot, "Snapshot", "Delete", "a{sv}", {})
        site.client.finish(job)
        merged.add(time.monotonic() - since)
        guest.wait_writing()
        during.add(guest.longest_gap(since))
        count = guest.stop_writing()
        guest.terminate()
        check_content(site.client.get(disk, "Disk", "ActivePath"), guest.blocks, guest.block, count)
        site.client.call(vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    finally:
        guest.kill()
        shutil.rmtree(directory)


# --- what is said ---

class Report:
    def __init__(self):
        self.lines, self.targets, self.figures = [], [], []

    def say(self, line):
        self.lines.append(line)

    def table(self, title, series):
        self.say(f"\n{title}, ms: median (10th - 90th percentile)")
        for name, times in series.items():
            self.say(f"  {name.ljust(44)}{times.text()}")
            self.figures.append({"what": title, "who": name, **times.json()})

    def target(self, what, figure, limit):
        self.targets.append((what, figure, limit))


PARTS = {"range": run_range, "direction": run_direction, "deep": run_deep, "stall": run_stall}


def run(site, arguments):
    report = Report()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(site, arguments, report)
    results = {"host": site.describe(), "rounds": arguments.rounds, "layers": arguments.layers, "mib": arguments.mib}
    print_host(site, results)
    print("\n".join(report.lines))
    results["targets"] = print_targets(report.targets)
    results["machine"] = {"flush": site.machine.flush.json(), "computing": site.machine.computing.json()}
    results["figures"] = report.figures
    return results


def main():
    parser = arguments_parser(__doc__, list(PARTS), rounds=3)
    parser.add_argument("--layers", type=int, default=10, help="that are merged into one (%(default)s)")
    parser.add_argument("--mib", type=int, default=100, help="in each of them (%(default)s)")
    arguments = parser.parse_args()
    run_in_site(arguments, arguments.part in (None, "range", "deep"), run)


if __name__ == "__main__":
    main()
