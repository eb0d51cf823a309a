#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long a backup of a running VM takes, beside libvirt, which does the same with the same disk; how soon it can be read; and
how long a guest waits for its writes meanwhile.

  tests/bench/backup.py [--rounds N] [--mib N] [--changed N] [--json FILE] [--directory DIR]
                        [--part pull|push|latency|profile] [--no-libvirt]

Everything runs in the same rounds, one after the other in changing order, on one file system. The daemon is that of
VOLCHAIN_BUILD, or build/release: meson setup build/release -Dbuildtype=release -Dtests=false.

Pull: a disk with so much data (1 GiB), none of it in the page cache, is backed up in full, with a checkpoint, and read by
nbdcopy; then, after so many MiB (64) have changed, incrementally, and what the bitmap marks is read by libnbd into the copy of
before. By volchain, from the call of StartBackup until Finish has ended; by libvirt over its API; and by virsh backup-begin and
domjobabort. All is done when an fsync of the copy has returned. "Ready" is the time until exports can be read. The
content is compared by digest each time.

Push: the same, but QEMU writes the files: qcow2, the incremental one over the full one.

Latency: a guest that does nothing but write, 4096 bytes at a time, to an area that is full of data. How long it waits for a
write, and how many it gets done, before a full backup is begun, while nbdcopy reads it, and while somebody reads it at 1 MiB
a second. None of its writes may fail.

Profile: what volchain asks its QEMU while a backup begins and while it is finished, and how long each answer takes; once.
"""
import os
import random
import shutil
import subprocess
import sys
import time

import nbd

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests"))
os.environ.setdefault("VOLCHAIN_BUILD", os.path.join(ROOT, "build/release"))
from bench.backup_peers import MIB, Libvirt, Virsh, Volchain, read_all, read_changes, write_changes  # noqa: E402
from bench.measure import Series, ratio, timed  # noqa: E402
from bench.merge_peers import LIMIT, Layers, cool, digest, flush  # noqa: E402
from bench.monitor_tap import MonitorTap  # noqa: E402
from bench.workbench import arguments_parser, print_host, print_targets, run_in_site  # noqa: E402
from harness import backups, images  # noqa: E402
from harness.busy_guest import BusyGuest  # noqa: E402

PIECE = 64 * 1024  # what the slow reader reads at a time
SLOW = MIB  # bytes a second
SLOW_SECONDS = 8


def progress(text):
    print(f"\r  {text:<70}", end="", file=sys.stderr, flush=True)


def raw_digest(path):
    summed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True, timeout=LIMIT)
    return summed.stdout.split()[0]


def peers(site):
    return [Volchain] + ([Libvirt, Virsh] if site.libvirt else [])


class Rounds:
    """Series by what is measured and who does it."""

    def __init__(self, names):
        self.names, self.series = names, {}

    def add(self, what, name, seconds):
        self.series.setdefault(what, {who: Series() for who in self.names})[name].add(seconds)


def measure(site, arguments, title, work):
    """`work` of each peer in each round: (rounds, vm, layers, directory)."""
    ways = {peer.name: peer for peer in peers(site)}
    rounds = Rounds(list(ways))
    layers = Layers(f"{site.directory}/{title}", [arguments.mib])
    for count in range(arguments.rounds):
        site.machine.look()
        for name in random.sample(list(ways), len(ways)):
            progress(f"{title}, round {count + 1} of {arguments.rounds}: {name}")
            directory = site.new_directory()
            paths = layers.copy(f"{directory}/images")
            cool(f"{directory}/images")
            vm = ways[name](site, directory, paths)
            work(rounds, vm, layers, directory, arguments.changed)
            shutil.rmtree(directory)
    progress("")
    shutil.rmtree(layers.directory)
    return rounds


# --- pull ---

def pull(rounds, vm, layers, directory, changed):
    copy = f"{directory}/copy.raw"
    one_pull(rounds, vm, "full", lambda uri, _: read_all(uri, copy), "c0")
    assert raw_digest(copy) == layers.digest, f"{vm.name}: the copy is not what the disk was"
    write_changes(vm.write, layers.mebibytes[0] * MIB, changed, 7)
    cool(directory)
    one_pull(rounds, vm, "incremental", lambda uri, bitmap: read_changes(uri, bitmap, copy), "c1", "c0")
    assert digest(vm.close()) == raw_digest(copy), f"{vm.name}: the copy is not what the disk is"


def one_pull(rounds, vm, kind, read, *checkpoints):
    begun = timed(lambda: vm.begin(*checkpoints))
    shown = vm.shown()
    reading = timed(lambda: read(*shown))
    ended = timed(vm.end)
    rounds.add(f"{kind}: ready", vm.name, begun)
    rounds.add(f"{kind}: read", vm.name, reading)
    rounds.add(f"{kind}: ended", vm.name, ended)
    rounds.add(f"{kind}: all of it", vm.name, begun + reading + ended)


def run_pull(site, arguments, report):
    rounds = measure(site, arguments, "pull", pull)
    report.rounds(f"{arguments.mib} MiB, then {arguments.changed} MiB of changes, read over NBD", rounds)
    for other in rounds.names[1:]:
        for kind in ("full", "incremental"):
            for what in ("all of it", "ready"):
                series = rounds.series[f"{kind}: {what}"]
                report.target(f"pull, {kind}, {what}: times {other}", ratio(series["volchain"], series[other]), 1.0)


# --- push ---

def push(rounds, vm, layers, directory, changed):
    files = {}
    for kind, checkpoints in (("full", ["c0"]), ("incremental", ["c1", "c0"])):
        rounds.add(kind, vm.name, timed(lambda: files.__setitem__(kind, vm.push(*checkpoints))))
        if kind == "full":
            assert digest(files[kind]) == layers.digest, f"{vm.name}: the file is not what the disk was"
            write_changes(vm.write, layers.mebibytes[0] * MIB, changed, 7)
            cool(directory)
    assert digest(vm.close()) == digest(files["incremental"]), f"{vm.name}: the file is not what the disk is"


def run_push(site, arguments, report):
    rounds = measure(site, arguments, "push", push)
    report.rounds(f"{arguments.mib} MiB, then {arguments.changed} MiB of changes, written by QEMU", rounds)
    for other in rounds.names[1:]:
        for kind, series in rounds.series.items():
            report.target(f"push, {kind}: times {other}", ratio(series["volchain"], series[other]), 1.0)


# --- the guest's writes ---

BEFORE, READ, THROTTLED = "before", "while nbdcopy reads", "while it is read at 1 MiB a second"


def run_latency(site, arguments, report):
    waits, rates = ({name: Series() for name in (BEFORE, READ, THROTTLED)} for _ in range(2))
    for count in range(arguments.rounds):
        progress(f"latency, round {count + 1} of {arguments.rounds}")
        site.machine.look()
        latency(site, waits, rates)
    progress("")
    report.say("\na guest that writes 4096 bytes at a time: the longest wait for a write, ms; and writes a second")
    for name in (BEFORE, READ, THROTTLED):
        rate = sorted(rates[name].values)
        report.say(f"  {name.ljust(44)}{waits[name].text()}; {rate[len(rate) // 2]:.0f} ({rate[0]:.0f} - {rate[-1]:.0f})")
        report.figures.append({"what": "longest wait of the guest", "who": name, **waits[name].json(), "writes_a_second": rate})
    for name in (READ, THROTTLED):
        report.target(f"longest wait of the guest for a write, {name}, s", waits[name].median, 1.0)


def latency(site, waits, rates):
    directory = site.new_directory()
    region = 256 * MIB
    path = BusyGuest.make(f"{directory}/disk.qcow2", 1024 * MIB, region=region)
    images.write(path, 0x11, 2 * MIB, 511 * MIB)
    flush(path)
    guest = BusyGuest(f"{directory}/vm", [path], region=region).start()
    try:
        vm = site.client.register_vm(os.path.basename(directory), qmp_socket=guest.qmp)
        observe(guest, waits[BEFORE], rates[BEFORE], lambda: guest.wait_writing(minimum=3))
        for name, read in ((READ, lambda uri: read_all(uri, f"{directory}/copy.raw")), (THROTTLED, read_slowly)):
            observe(guest, waits[name], rates[name], lambda: whole_backup(site.client, vm, read))
        guest.written()
        site.client.call(vm, "VM", "Unregister", "a{sv}", {})
    finally:
        guest.kill()
        shutil.rmtree(directory)


def whole_backup(client, vm, read):
    backup = backups.start(client, vm)
    (uri, _), = backups.shown(client, backup).values()
    read(uri)
    backups.finish(client, backup)


def observe(guest, waits, rates, work):
    """written() fails where a write of the guest has."""
    since, before = time.monotonic(), guest.written()
    work()
    seconds = time.monotonic() - since
    rates.add((guest.written() - before) / seconds)
    waits.add(guest.longest_gap(since))


def read_slowly(uri):
    """For some seconds; the guest writes much more meanwhile."""
    handle = nbd.NBD()
    handle.connect_uri(uri)
    began = time.monotonic()
    for number in range(SLOW_SECONDS * SLOW // PIECE):
        handle.pread(PIECE, number * PIECE)
        time.sleep(max(0.0, began + (number + 1) * PIECE / SLOW - time.monotonic()))
    handle.shutdown()


# --- what is said ---

class Report:
    def __init__(self):
        self.lines, self.targets, self.figures = [], [], []

    def say(self, line):
        self.lines.append(line)

    def rounds(self, title, rounds):
        self.say(f"\n{title}, ms: median (10th - 90th percentile)")
        for what, series in rounds.series.items():
            for name, times in series.items():
                self.say(f"  {what.ljust(26)}{name.ljust(12)}{times.text()}")
                self.figures.append({"what": what, "who": name, **times.json()})

    def target(self, what, figure, limit):
        self.targets.append((what, figure, limit))


# --- what it asks QEMU ---

def report_exchanges(vm, report, title, work):
    since = time.time()
    took = timed(work)
    report.say(f"\n{title}, {1e3 * took:.1f} ms: when volchain asks, ms; how long QEMU takes; what")
    for name, asked, answered in vm.tap.named_exchanges(since, time.time()):
        report.say(f"  {1e3 * (asked - since):7.2f} {1e3 * (answered - asked):7.2f}  {name}")


def run_profile(site, _, report):
    site.machine.look()
    directory = site.new_directory()
    path = images.create(f"{directory}/disk.qcow2", 1024 * MIB)
    vm = Volchain(site, directory, [path], tap=MonitorTap)
    vm.begin("c0")
    vm.end()
    for kind, checkpoints in (("full", ["c1"]), ("incremental", ["c2", "c1"])):
        report_exchanges(vm, report, f"A {kind} backup in pull mode begins", lambda names=checkpoints: vm.begin(*names))
        report_exchanges(vm, report, "It is finished", vm.end)
    vm.close()


PARTS = {"pull": run_pull, "push": run_push, "latency": run_latency, "profile": run_profile}


def run(site, arguments):
    report = Report()
    for name, part in PARTS.items():
        if arguments.part in (None, name):
            part(site, arguments, report)
    results = {"host": site.describe(), "rounds": arguments.rounds, "mib": arguments.mib, "changed": arguments.changed}
    print_host(site, results)
    print("\n".join(report.lines))
    results["targets"] = print_targets(report.targets)
    results["machine"] = {"flush": site.machine.flush.json(), "computing": site.machine.computing.json()}
    results["figures"] = report.figures
    return results


def main():
    parser = arguments_parser(__doc__, list(PARTS), rounds=5)
    parser.add_argument("--mib", type=int, default=1024, help="of data on the disk (%(default)s)")
    parser.add_argument("--changed", type=int, default=64, help="MiB that change until the incremental backup (%(default)s)")
    arguments = parser.parse_args()
    run_in_site(arguments, arguments.part in (None, "pull", "push"), run)


if __name__ == "__main__":
    main()
