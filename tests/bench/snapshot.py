#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How long a snapshot takes, beside others who take one of the same kind of guest, and how long a guest is
frozen for it.

  tests/bench/snapshot.py [--rounds N] [--json FILE] [--directory DIR] [--part latency|freeze]
                          [--no-libvirt] [--linux]

Everything runs in the same rounds, one after the other in changing order, on one file system. The daemon is
that of VOLCHAIN_BUILD, or build/release: meson setup build/release -Dbuildtype=release -Doptimization=2 -Dtests=false.

Latency: CreateSnapshot without an agent, from the D-Bus call to the answer of Job.Wait, on a connection that
is there all the time; a script over bare QMP that does the same steps (overlays made in a storage daemon,
blockdev-add, one transaction); libvirt by its API and by virsh, each with a libvirtd that is there all the
time. With 1 disk and 4, and with 1 disk at the end of a chain of 60.

Freeze: with quiesce=require and an agent that answers at once, the time between its answer to the freeze and
the sending of the thaw, without what QEMU takes for the one command between them. As the daemon has it in its
journal, and as it was seen at the sockets of the agent and the monitor, where it is also seen that it is one
command. With --linux also for a real guest, whose agent nobody looks over the shoulder of.
"""
import contextlib
import os
import random
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tests"))
os.environ.setdefault("VOLCHAIN_BUILD", os.path.join(ROOT, "build/release"))
from bench.instant_agent import InstantAgent  # noqa: E402
from bench.monitor_tap import MonitorTap  # noqa: E402
from bench.measure import Series, ratio, timed  # noqa: E402
from bench.peers import Bare, LibvirtApi, Virsh, Volchain, VolchainGuest, ping  # noqa: E402
from bench.workbench import arguments_parser, print_host, print_targets, run_in_site  # noqa: E402
from harness.filesystems import make_disk  # noqa: E402
from harness.linux_guest import LinuxGuest, build as build_guest  # noqa: E402

CASES = {"1 disk": (1, 1), "4 disks": (4, 1), "depth 60": (1, 60)}
# So many snapshots of a guest; then it is replaced, so that chains stay about as deep as the case says.
ROUNDS_A_GUEST = 5
SHARE_TARGET = 5e-3


# --- latency ---

def latency(site, peers, rounds):
    """{(peer, case): Series}"""
    series = {(peer.name, case): Series() for peer in peers for case in CASES}
    for first in range(0, rounds, ROUNDS_A_GUEST):
        count = min(ROUNDS_A_GUEST, rounds - first)
        with contextlib.ExitStack() as stack:
            guests = {}
            for peer in peers:
                for case, (disks, depth) in CASES.items():
                    guest = peer.guest(site.new_directory(), disks, depth)
                    stack.callback(guest.close)
                    guests[peer.name, case] = guest
            for _ in range(count):
                site.machine.look()
                for key in random.sample(list(guests), len(guests)):
                    series[key].add(timed(guests[key].snapshot))
            for guest in guests.values():
                guest.check(count)
        print(f"\r  round {first + count} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return series


# --- freeze ---

class Freeze:
    """What was seen of the frozen windows of a guest with so many disks, in seconds."""

    def __init__(self):
        self.frozen, self.switch, self.share, self.share_seen = Series(), Series(), Series(), Series()

    def take(self, result):
        """What the daemon says."""
        frozen, switch = result["frozen-usec"] / 1e6, result["switch-usec"] / 1e6
        self.frozen.add(frozen)
        self.switch.add(switch)
        self.share.add(frozen - switch)

    def witness(self, agent, tap):
        """What was seen of the latest window."""
        since, until = agent.frozen[-1], agent.thawed[-1]
        exchanges = tap.exchanges(since, until)
        if len(exchanges) != 1:
            raise AssertionError(f"{len(exchanges)} QMP commands while the guest was frozen, not one")
        (sent, answered), = exchanges
        self.share_seen.add((until - since) - (answered - sent))


def freeze(site, disks, rounds):
    """A guest of its own for each few snapshots, as above."""
    seen = Freeze()
    for first in range(0, rounds, ROUNDS_A_GUEST):
        directory = site.new_directory()
        agent = InstantAgent(f"{directory}/instant-agent.sock")
        active = site.chains.copy(f"{directory}/images", disks, 1)
        guest = VolchainGuest(site.client, directory, active, agent=agent.path,
                              tap=lambda monitor: MonitorTap(f"{monitor}.tap", monitor))
        try:
            for _ in range(min(ROUNDS_A_GUEST, rounds - first)):
                site.machine.look()
                seen.take(guest.snapshot(quiesce="require"))
                seen.witness(agent, guest.tap)
        finally:
            guest.close()
            agent.close()
    return seen


def freeze_linux(site, disks, rounds):
    """The same with a real guest; one is enough, as its start takes longest."""
    seen, directory = Freeze(), site.new_directory()
    paths = [make_disk(f"{directory}/disk{number}.qcow2") for number in range(disks)]
    guest = LinuxGuest(f"{directory}/guest", paths, image=build_guest(), writer=1).start()
    try:
        vm = site.client.register_vm(f"linux-{disks}", qmp_socket=guest.qmp, agent_socket=guest.agent)
        site.client.wait_property(vm, "VM", "AgentState", "connected")
        for _ in range(rounds):
            site.machine.look()
            seen.take(site.client.finish(site.client.create_snapshot(vm, quiesce="require")))
        site.client.call(vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    finally:
        guest.kill()
    return seen


# --- what is said ---

def print_latency(series, peers):
    width = 26
    print(f"\n{'CreateSnapshot without an agent, ms: median (10th - 90th percentile)'}")
    print("  " + "".join(title.ljust(width) for title in ["", *CASES]).rstrip())
    for peer in peers:
        print("  " + "".join(cell.ljust(width) for cell in
                             [peer.name, *(series[peer.name, case].text() for case in CASES)]).rstrip())


def latency_targets(series):
    """[(what, figure, limit)]"""
    volchain = {case: series["volchain", case] for case in CASES}
    bare = {case: series["bare QMP", case] for case in CASES}
    return [("1 disk, times bare QMP", ratio(volchain["1 disk"], bare["1 disk"]), 1.5),
            ("4 disks, times bare QMP", ratio(volchain["4 disks"], bare["4 disks"]), 1.0),
            ("depth 60, times depth 1", ratio(volchain["depth 60"], volchain["1 disk"]), 2.0)]


def print_freeze(freezes):
    print("\nGuest frozen, ms: median (10th - 90th percentile)")
    columns = ["", "frozen", "of it QEMU's switch", "daemon's share", "share as seen outside"]
    print("  " + "".join(column.ljust(26) for column in columns).rstrip())
    for case, seen in freezes.items():
        cells = [case, *(series.text() for series in (seen.frozen, seen.switch, seen.share, seen.share_seen))]
        print("  " + "".join(cell.ljust(26) for cell in cells).rstrip())


def freeze_targets(freezes):
    return [(f"daemon's share of the freeze, {case}, ms", 1e3 * seen.share.median, 1e3 * SHARE_TARGET)
            for case, seen in freezes.items()]


def run(site, arguments):
    peers = [Volchain(site.client, site.chains), Bare(site.chains)]
    if site.libvirt:
        peers += [LibvirtApi(site.libvirt, site.chains), Virsh(site.libvirt, site.chains)]
    results = {"host": site.describe(), "rounds": arguments.rounds}
    series, freezes, pings, targets = {}, {}, Series(), []
    for _ in range(200):
        pings.add(timed(lambda: ping(site.client)))
    if arguments.part != "freeze":
        series = latency(site, peers, arguments.rounds)
        targets += latency_targets(series)
    if arguments.part != "latency":
        for case, disks in (("1 disk", 1), ("4 disks", 4)):
            freezes[case] = freeze(site, disks, arguments.rounds)
            if arguments.linux:
                freezes[f"{case}, Linux"] = freeze_linux(site, disks, arguments.rounds)
        targets += freeze_targets(freezes)
    print_host(site, results)
    print(f"a call that does nothing (Ping) on the same D-Bus connection: {pings.text()} ms; "
          "a snapshot takes two calls")
    if series:
        print_latency(series, peers)
    if freezes:
        print_freeze(freezes)
    results["targets"] = print_targets(targets)
    results["machine"] = {"flush": site.machine.flush.json(), "computing": site.machine.computing.json()}
    results["ping"] = pings.json()
    results["latency"] = [{"peer": peer, "case": case, **times.json()}
                          for (peer, case), times in series.items()]
    results["freeze"] = {case: {name: times.json() for name, times in vars(seen).items() if times}
                         for case, seen in freezes.items()}
    return results


def main():
    parser = arguments_parser(__doc__, ["latency", "freeze"], rounds=30)
    parser.add_argument("--linux", action="store_true", help="a real guest's freeze, too")
    arguments = parser.parse_args()
    run_in_site(arguments, arguments.part != "freeze", run)


if __name__ == "__main__":
    main()
