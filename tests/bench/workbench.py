# SPDX-License-Identifier: MIT
"""What the benchmarks stand on: a bus, the daemon, a libvirtd and a directory of their own; and how they say what they
found."""
import argparse
import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile

from bench.libvirt_host import LibvirtHost, Unavailable
from bench.measure import Machine
from bench.peers import Chains
from harness import images
from harness.bus import Bus
from harness.client import Client
from harness.daemon import BUILD, Daemon

# For the agent of a real guest without KVM.
CONFIG = """
[quiesce]
agent-timeout = "10s"
freeze-timeout = "30s"
freeze-limit = "30s"
thaw-timeout = "20s"
"""


class Site:
    """A bus, the daemon, a client, and what else a benchmark needs, below one directory. `libvirt` is None where there is
    none; then `without_libvirt` says why."""

    def __init__(self, directory, with_libvirt):
        self.directory, self.count = directory, 0
        self.libvirt, self.without_libvirt = self._find_libvirt(with_libvirt)
        self.bus = Bus(f"{directory}/bus")
        self.daemon = Daemon(f"{directory}/daemon", self.bus, CONFIG, verbose=False)
        self.client = None
        self.chains = Chains(f"{directory}/chains")
        self.machine = Machine(directory)

    def _find_libvirt(self, wanted):
        if not wanted:
            return None, "it was not wanted"
        os.mkdir(f"{self.directory}/l")
        try:
            return LibvirtHost(f"{self.directory}/l"), ""
        except Unavailable as error:
            return None, str(error)

    def __enter__(self):
        try:
            self.daemon.start()
            self.client = Client(self.bus.address, timeout=600)
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.daemon.stop()
        self.bus.stop()
        if self.libvirt:
            self.libvirt.stop()

    def new_directory(self):
        self.count += 1
        path = f"{self.directory}/g{self.count}"
        os.mkdir(path)
        return path

    def describe(self):
        qemu = images.run("qemu-system-x86_64", "--version").split("version ")[1].split()[0]
        kind = images.run("stat", "-f", "-c", "%T", self.directory).strip()
        return {"cpus": len(os.sched_getaffinity(0)), "kernel": platform.release(), "filesystem": kind, "build": BUILD,
                "qemu": qemu, "libvirt": self.libvirt.version if self.libvirt else None}


def arguments_parser(description, parts, rounds):
    """The options that the benchmarks have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", metavar="FILE", help="all figures, of each round")
    parser.add_argument("--directory", default="/var/tmp", help="the file system to work on (%(default)s)")
    parser.add_argument("--part", choices=parts, help="this part only")
    parser.add_argument("--no-libvirt", action="store_true")
    parser.add_argument("--strict", action="store_true", help="exit status 1 where a target is missed")
    return parser


def print_host(site, results):
    for name, value in results["host"].items():
        print(f"{name}: {value}", end="; ")
    print(f"\nmachine: {site.machine.text()}")
    if site.machine.noisy():
        print("*** THE MACHINE IS NOISY: the times of this run mean little, only ratios do ***")
    if site.without_libvirt:
        print(f"*** NOT COMPARED WITH LIBVIRT: {site.without_libvirt} ***")


def print_targets(targets):
    """[(what, figure, limit)]; for a benchmark's results."""
    print("\nTargets")
    for what, figure, limit in targets:
        print(f"  {'ok    ' if figure <= limit else 'MISSED'}  {what}: {figure:.2f} (at most {limit:g})")
    return [{"what": what, "figure": figure, "limit": limit, "ok": figure <= limit} for what, figure, limit in targets]


def run_in_site(arguments, with_libvirt, run):
    """run(site, arguments): the results, among them "targets"."""
    # Short, for the paths of sockets.
    directory = tempfile.mkdtemp(prefix="vcb-", dir=arguments.directory)
    os.chmod(directory, 0o755)
    try:
        with Site(directory, with_libvirt and not arguments.no_libvirt) as site:
            results = run(site, arguments)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if arguments.json:
        with open(arguments.json, "w") as f:
            json.dump(results, f, indent=1)
    if arguments.strict and not all(target["ok"] for target in results["targets"]):
        sys.exit(1)
