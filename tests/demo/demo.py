#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The main job of volchain end to end, with a real guest, over D-Bus by busctl alone. Called by ./demo.

It ends with status 1 when something that it shows is not true.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from harness import images  # noqa: E402
from harness.filesystems import Ext4  # noqa: E402
from stage import Stage, Untrue, complain, heading, require, run, say  # noqa: E402

DISKS = 2


def show_chain(path):
    run("qemu-img", "info", "-U", "--backing-chain", path, only="^(image|backing file|disk size):")


def register(stage):
    heading("The daemon is told of the virtual machine: its monitor and its guest agent")
    guest = stage.guest
    output = stage.call("/org/volchain1", "Manager", "RegisterVM", "sa{sv}", "web", "2",
                        "qmp-socket", "s", guest.qmp, "agent-socket", "s", guest.agent)
    stage.vm = output.split('"')[1]
    disks = stage.get_objects(stage.vm, "VM", "Disks")
    require(len(disks) == DISKS, f"its {DISKS} disks were found in QEMU's block graph and adopted")
    require(stage.get(stage.vm, "VM", "State") == "running", "it is known to be running")
    say("The chain of the first disk, before:")
    show_chain(guest.active_file("dev0"))


def take_snapshot(stage):
    heading("A snapshot of all disks at one instant, with the guest's file systems frozen")
    guest = stage.guest
    guest.wait_writing(20)
    stage.before = guest.acknowledged()
    say("A program in the guest writes numbered records to all disks and flushes each: "
        f"{stage.before} are acknowledged.")
    result = stage.job(stage.vm, "VM", "CreateSnapshot", "sa{sv}", "before-upgrade", "1",
                       "quiesce", "s", "require")
    stage.after = guest.acknowledged()
    stage.snapshot = result["snapshot"]
    consistency = stage.get(stage.snapshot, "Snapshot", "Consistency")
    require(consistency == "filesystem", "the snapshot is consistent as file systems are")
    pairs = stage.get_objects(stage.snapshot, "Snapshot", "Disks")
    stage.volumes = sorted(stage.get(volume, "Volume", "Path") for volume in pairs[1::2])


def look_at_chains(stage):
    heading("The chain of the first disk, after")
    tops = [stage.guest.active_file(f"dev{number}") for number in range(DISKS)]
    show_chain(tops[0])
    for top in tops:
        chain = images.chain(top)
        require(len(chain) == 2 and chain[1] in stage.volumes,
                f"{os.path.basename(top)} stands on the snapshot's volume")


def look_at_guest(stage):
    heading("The guest goes on")
    stage.guest.shell("echo later > /mnt/vda/written-after-the-snapshot; sync")
    last = stage.guest.wait_writing(20)
    require(last > stage.after, f"it writes: {last} records are acknowledged by now")


def look_into_snapshot(stage):
    heading("The file systems in the snapshot, looked at with e2fsprogs while the guest writes on")
    for volume in stage.volumes:
        with Ext4(volume) as filesystem:
            say(f"{os.path.basename(volume)}, as a raw copy:")
            header = run("dumpe2fs", "-h", filesystem.raw, only="^Filesystem (features|state)")
            require("needs_recovery" not in header, f"{os.path.basename(volume)} has nothing to replay")
            run("e2fsck", "-fn", filesystem.raw)
            require(filesystem.clean, "e2fsck finds nothing to complain of")
            records = filesystem.records()
            require(stage.before <= records <= stage.after + 1,
                    f"{records} records are in it, whole and in order: all {stage.before} that had been "
                    "acknowledged before the call")
            require(filesystem.records("dirty") >= records, "what the guest had not flushed is there as well")
            require(filesystem.read("/written-after-the-snapshot") is None, "and nothing that came later")


def merge(stage):
    heading("A second snapshot is taken and the first one deleted: its volumes are merged while the guest writes")
    guest = stage.guest
    guest.wait_writing(20)
    stage.before = guest.acknowledged()
    first, result = stage.snapshot, stage.job(stage.vm, "VM", "CreateSnapshot", "sa{sv}", "after-upgrade", "1",
                                              "quiesce", "s", "require")
    stage.snapshot = result["snapshot"]
    guest.shell("echo later > /mnt/vda/written-after-the-second; sync")
    stage.job(first, "Snapshot", "Delete", "a{sv}", "0")
    require(stage.get_objects(stage.vm, "VM", "Snapshots") == [stage.snapshot], "the first snapshot is gone")
    show_chain(guest.active_file("dev0"))
    for number in range(DISKS):
        require(len(images.chain(guest.active_file(f"dev{number}"))) == 2, "and so is its layer of the chain")
    last = guest.acknowledged()
    require(guest.wait_writing(20) > last, "the guest writes on")
    for volume in stage.get_objects(stage.snapshot, "Snapshot", "Disks")[1::2]:
        path = stage.get(volume, "Volume", "Path")
        with Ext4(path) as filesystem:
            require(filesystem.clean and filesystem.records() >= stage.before,
                    f"{os.path.basename(path)}, what the second one stands on, is clean and complete")


def export(stage):
    heading("While the guest writes on, a backup appliance reads the first disk as it was at the snapshot, over NBD")
    disk, volume = stage.get_objects(stage.snapshot, "Snapshot", "Disks")[:2]
    shown = stage.job(stage.snapshot, "Snapshot", "Export", "oa{sv}", disk, "0")["export"]
    last, copy = stage.guest.acknowledged(), os.path.join(stage.directory, "backup.raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", stage.get(shown, "Export", "Uri"), copy)
    expected = images.digest(stage.get(volume, "Volume", "Path"))
    require(images.digest(copy, fmt="raw") == expected, "the copy is what the snapshot holds, byte for byte")
    require(stage.guest.wait_writing(20) > last, "the guest wrote all the time")
    stage.job(shown, "Export", "Stop", "a{sv}", "0")
    os.unlink(copy)


def preview_and_undo(stage):
    heading("The guest is shut down, its disks show the snapshot for a look, and what they were comes back")
    stage.guest.shutdown()
    stage.call(stage.vm, "VM", "Refresh")
    require(stage.get(stage.vm, "VM", "State") == "shutoff", "it is known to be down")
    disks = stage.get_objects(stage.vm, "VM", "Disks")
    former = [stage.get(disk, "Disk", "ActivePath") for disk in disks]
    stage.job(stage.snapshot, "Snapshot", "Preview", "a{sv}", "0")
    say("The arguments with which QEMU opens the disks as they are now:")
    stage.call(stage.vm, "VM", "LaunchArguments", "a{sv}", "0")
    for disk in disks:
        with Ext4(stage.get(disk, "Disk", "ActivePath")) as filesystem:
            require(filesystem.clean and filesystem.read("/written-after-the-second") is None,
                    "the disk shows the snapshot")
    stage.job(stage.vm, "VM", "UndoPreview", "a{sv}", "0")
    require([stage.get(disk, "Disk", "ActivePath") for disk in disks] == former, "undone: the disks are what they were")
    shown = []
    for path in former:
        with Ext4(path) as filesystem:
            filesystem.replay()
            shown.append(filesystem.read("/written-after-the-second"))
    require(shown.count(None) == DISKS - 1, "with what the guest had written after the snapshot")


STEPS = [register, take_snapshot, look_at_chains, look_at_guest, look_into_snapshot, merge, export, preview_and_undo]


def main():
    heading("A guest is started (Linux without KVM: some seconds), and volchaind on a bus of its own")
    with Stage(DISKS) as stage:
        try:
            for step in STEPS:
                step(stage)
        except Exception as failure:  # whatever it is: it was promised
            complain(failure if isinstance(failure, Untrue) else repr(failure))
            print(f"The daemon says:\n{stage.log()}", file=sys.stderr)
            return 1
    heading("All of it was true.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
