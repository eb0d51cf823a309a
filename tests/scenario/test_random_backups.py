# SPDX-License-Identifier: MIT
"""A guest that writes all the time; snapshots, merges, previews that are committed, restarts of the VM, kills of QEMU and of the
daemon, and backups of all kinds among them, in random order: what is restored of each, a full one or what was restored before
and the changes since, is what the disks held at the moment of the call. And a checkpoint is lost by what loses it alone.

A failure names its seed and the steps so far. More of them: VOLCHAIN_SEEDS=100-300 runs those seeds, VOLCHAIN_ROUNDS=60
makes them longer.
"""
import os
import random
import time

import pytest

from harness import backups, images
from harness.busy_tree import DISKS, BusyTree
from harness.client import DBusError, variants
from harness.seeds import seeds

ROUNDS = int(os.environ.get("VOLCHAIN_ROUNDS", "20"))
MIB = 1 << 20
MOST_SNAPSHOTS, MOST_CHECKPOINTS = 4, 6
# Where the daemon is killed: steps that are passed by every one of their kind.
STARTING = {"pull": ["files", "nodes", "hold", "thaw", "filters", "readers", "server", "finish"],
            "push": ["files", "nodes", "hold", "thaw", "filters", "readers", "copy", "publish", "end"]}
FINISHING = ["check", "end", "remove", "finish"]
DELETING = ["copy", "bitmaps", "switch", "unlink"]


class Known:
    """Of one disk, in a state of it: checkpoints from which its changes have to be known, and those from which they cannot
    be. Of one that was deleted, neither is said: what is left of it in lower layers may come to light again."""

    def __init__(self, good=(), lost=()):
        self.good, self.lost = set(good), set(lost)

    def copy(self):
        return Known(self.good, self.lost)

    def crash(self):
        self.lost |= self.good
        self.good = set()

    def forget(self, name):
        self.good.discard(name)
        self.lost.discard(name)


class Run:
    def __init__(self, tree, daemon, directory, seed):
        self.tree, self.daemon, self.client, self.random = tree, daemon, tree.client, random.Random(seed)
        self.target = f"{directory}/backups"
        os.mkdir(self.target)
        self.done, self.count = [], 0
        self.known = [Known() for _ in range(DISKS)]
        self.known_at, self.content_of = {}, {}  # of each snapshot, disk by disk
        self.restored = {}  # {checkpoint: {disk: content}}
        self.counts = dict.fromkeys(("full", "incremental", "bytes", "of"), 0)

    def chance(self, of_one):
        return self.random.random() < of_one

    def new_name(self, letter):
        self.count += 1
        return f"{letter}{self.count}"

    def scatter(self, most):
        self.tree.scatter(self.random, self.random.randint(1, most))

    # --- backups ---
    def checkpoints(self):
        """Names, the oldest first."""
        return [name for name, _, _ in self.client.get(self.tree.vm, "VM", "Checkpoints")]

    def request(self, suitable=None):
        """(options of a backup, the checkpoint that it goes back to, its disks). `suitable`: checkpoints that are to be gone back
        to, if there are any."""
        names = self.checkpoints()
        kind = self.random.choice(["full"] + ["incremental"] * 4 + ["differential"] * 3)
        if kind == "differential" and not names:
            kind = "full"
        options, since, disks = {"kind": kind}, None, list(range(DISKS))
        if kind == "differential":
            good = sorted(set.intersection(*(known.good for known in self.known)))
            good = [name for name in good if suitable and name in suitable] or good
            since = options["since"] = self.random.choice(good if good and self.chance(0.8) else names)
        elif kind == "incremental" and names:
            since = names[-1]
        if self.chance(0.8):
            options["checkpoint"] = self.new_name("c")
        if self.chance(0.1):
            disks = [self.random.randrange(DISKS)]
            options["disks"] = [self.tree.disks[number] for number in disks]
        return options, since, disks

    def must_be(self, number, since):
        """What a backup of a disk has to be; None where either is right."""
        known = self.known[number]
        if since is None or since in known.lost:
            return "full"
        return "incremental" if since in known.good else None

    def require(self, options, since, disks):
        """Sometimes a backup that would not be incremental is not wanted; it is refused, or not, as it has to be."""
        if options["kind"] == "full" or self.chance(0.5):
            return
        wanted = {self.must_be(number, since) for number in disks}
        if wanted == {"incremental"}:
            options["require_incremental"] = True
        elif "full" in wanted:
            with pytest.raises(DBusError, match="would not be incremental"):
                backups.begin(self.client, self.tree.vm, **options, require_incremental=True)

    def holds(self, options, disks, contents):
        """A backup is done, and its checkpoint is there."""
        name = options.get("checkpoint")
        if name is None:
            return
        self.restored[name] = contents
        for number, known in enumerate(self.known):
            (known.good if number in disks else known.lost).add(name)

    def pull(self):
        options, since, disks = self.request()
        self.require(options, since, disks)
        with self.tree.moment(still=self.chance(0.5)) as moment:
            backup = backups.start(self.client, self.tree.vm, **options)
        if options["kind"] != "full":
            assert self.client.get(backup, "Backup", "Since") == (since or "")
        self.meanwhile()
        contents = self.read(backup, since, disks, moment)
        self.scatter(4)
        end = self.random.choice(["finish"] * 6 + ["finish, killed", "abort", "die"])
        self.done[-1] += f" ({options['kind']}{'' if moment.least is None else ', on the fly'}, {end})"
        if end == "die":
            self.die()
            backups.wait_failed(self.client, backup)
            backups.abort(self.client, backup)
            self.tree.up()
        elif end == "abort":
            backups.abort(self.client, backup)
        else:
            self.finish(backup, killed=end != "finish")
            self.holds(options, disks, contents)

    def pull_down(self):
        """While the VM is down: the same, but that nobody writes meanwhile."""
        options, since, disks = self.request()
        self.tree.down()
        self.scatter(6)
        with self.tree.moment(still=True) as moment:
            backup = backups.start(self.client, self.tree.vm, **options)
            if self.chance(0.3):
                self.daemon.kill()
                self.daemon.start()
            contents = self.read(backup, since, disks, moment)
            end = self.random.choice(["finish"] * 3 + ["abort"])
            self.done[-1] += f" ({options['kind']}, {end})"
            if end == "finish":
                backups.finish(self.client, backup)
                self.holds(options, disks, contents)
            else:
                backups.abort(self.client, backup)
        assert self.tree.contents() == moment.contents
        self.tree.up()

    def finish(self, backup, killed):
        if not killed:
            return backups.finish(self.client, backup)
        self.daemon.at(f"finish-backup.{self.random.choice(FINISHING)}", "kill")
        self.client.send(backup, "Backup", "Finish", "a{sv}", {})
        self.revive()
        return self.client.finish(self.job("finish-backup"))

    def meanwhile(self):
        """Between the call and the reading; the guest writes on."""
        self.scatter(12)
        what = self.random.choice([None, None, self.restart_daemon, self.kill_daemon])
        if what:
            what()
        self.scatter(12)

    def read(self, backup, since, disks, moment):
        """{disk: content}, out of what was restored of `since` and what has changed since."""
        shown, kinds = backups.shown(self.client, backup), backups.kinds(self.client, backup)
        assert set(shown) == {self.tree.disks[number] for number in disks}
        contents = {}
        for number in disks:
            disk = self.tree.disks[number]
            uri, bitmap = shown[disk]
            self.check_kind(number, since, kinds[disk])
            assert bool(bitmap) == (kinds[disk] == "incremental")
            copy = backups.Copy()
            if bitmap:
                copy.data = bytearray(self.restored[since][number])
            copy.take(uri, bitmap)
            moment.check(number, bytes(copy.data))
            contents[number] = bytes(copy.data)
            self.counts["bytes"] += copy.read
            self.counts["of"] += len(copy.data)
        return contents

    def check_kind(self, number, since, kind):
        assert kind == self.must_be(number, since) or self.must_be(number, since) is None, \
            f"the backup of disk {number} since {since} is {kind}; {backups.problems(self.client, self.tree.vm)}"
        self.counts[kind] += 1

    def push(self):
        options, since, disks = self.request({name.split(".")[1] for name in os.listdir(self.target)})
        end = self.random.choice(["end"] * 6 + ["cancel", "die"])
        options |= {"mode": "push", "target": self.target, "compress": self.chance(0.3)}
        if end != "end":
            options["speed"] = MIB
        with self.tree.moment(still=self.chance(0.5)) as moment:
            job = backups.begin(self.client, self.tree.vm, **options)
            backups.wait_held(self.client, job)
        self.done[-1] += f" ({options['kind']}{'' if moment.least is None else ', on the fly'}, {end})"
        self.scatter(6)
        if end == "cancel":
            self.client.call(job, "Job", "Cancel")
        if end == "die":
            self.die()
        state, error, message, result = self.client.wait(job)
        if end == "end":
            assert state == "succeeded", (error, message)
        if end == "die":
            self.tree.up()
        if state == "succeeded":
            contents = self.look_at(result["files"], since, disks, moment)
            # One that no QEMU has stored does not outlive it.
            if end != "die":
                self.holds(options, disks, contents)

    def look_at(self, files, since, disks, moment):
        """{disk: content} of files that were pushed. Those that no checkpoint belongs to go."""
        assert len(files) == len(disks)
        contents = {}
        for number in disks:
            path, = [file for file in files if f"/web-serial{number}." in file]
            images.check(path)
            contents[number] = images.content(path)
            moment.check(number, contents[number])
            below = f"{self.target}/web-serial{number}.{since}.qcow2"
            kind = "incremental" if len(images.chain(path)) > 1 else "full"
            if os.path.exists(below):
                self.check_kind(number, since, kind)
                assert kind == "full" or images.chain(path)[1] == below
            else:
                assert kind == "full"
                self.counts[kind] += 1
            self.counts["of"] += len(contents[number])
            self.counts["bytes"] += os.stat(path).st_blocks * 512
            if not path.startswith(f"{self.target}/web-serial{number}.c"):
                os.unlink(path)
        return contents

    def killed_start(self):
        """The daemon is killed while it begins a backup, or pushes one."""
        options, since, disks = self.request()
        mode = self.random.choice(list(STARTING))
        point = self.random.choice(STARTING[mode])
        if mode == "push":
            options |= {"mode": "push", "target": self.target}
        self.done[-1] += f" ({mode}, at {point})"
        with self.tree.moment(still=True) as moment:
            self.daemon.at(f"start-backup.{point}", "kill")
            self.client.send(self.tree.vm, "VM", "StartBackup", "a{sv}", backups.options_of(options))
            self.revive()
            state, error, message, result = self.client.wait(self.job("start-backup"))
        if point in ("publish", "end"):
            assert state == "succeeded", (error, message)
            self.holds(options, disks, self.look_at(result["files"], since, disks, moment))
        else:
            assert (state, error) == ("failed", "Interrupted"), (state, error, message)

    def delete_checkpoint(self):
        names = self.checkpoints()
        if not names:
            return
        name = self.random.choice(names)
        backups.delete_checkpoint(self.client, self.tree.vm, name)
        for known in [*self.known, *(known for disks in self.known_at.values() for known in disks)]:
            known.forget(name)

    # --- what else happens ---
    def snapshot(self):
        name = self.new_name("s")
        with self.tree.moment(still=True) as moment:
            job = self.client.create_snapshot(self.tree.vm, name, quiesce="off")
            self.tree.snapshots[name] = self.client.finish(job)["snapshot"]
        self.keep(name, moment.contents, self.known)

    def keep(self, name, contents, known):
        self.content_of[name] = list(contents)
        self.known_at[name] = [disk.copy() for disk in known]

    def forget(self, names):
        self.tree.forget(*names)
        for name in names:
            del self.content_of[name], self.known_at[name]

    def delete(self):
        name = self.random.choice(sorted(self.tree.snapshots))
        self.client.finish(self.tree.delete(name))
        self.forget([name])

    def killed_delete(self):
        """The daemon is killed while a snapshot is merged away, if it comes to where it would be."""
        name = self.random.choice(sorted(self.tree.snapshots))
        point = self.random.choice(DELETING)
        self.done[-1] += f" (at {point})"
        self.daemon.at(f"delete-snapshot.{point}", "kill")
        try:
            self.client.wait(self.tree.delete(name))
        except DBusError as error:
            assert error.name == "org.freedesktop.DBus.Error.NoReply", error
            self.revive()
            self.client.wait(self.job("delete-snapshot"))
        self.daemon.forget_failpoints()
        if self.tree.snapshots[name] in self.client.of_kind("snapshot"):
            self.client.finish(self.tree.delete(name))
        self.forget([name])

    def flatten(self):
        self.client.finish(self.client.call(self.random.choice(self.tree.disks), "Disk", "Flatten", "a{sv}", {}))

    def overlay(self):
        self.client.finish(self.client.call(self.random.choice(self.tree.disks), "Disk", "CreateOverlay", "a{sv}", {}))

    def merge(self):
        """An inner volume that no snapshot names goes."""
        named = {volume for s in self.client.of_kind("snapshot").values() for _, volume in s["Disks"]}
        found = sorted(path for path, p in self.client.of_kind("volume").items()
                       if path not in named and not p["Active"] and len(p["Children"]) == 1)
        if found:
            options = variants({"direction": self.random.choice(("auto", "commit", "stream"))})
            self.client.finish(self.client.call(self.random.choice(found), "Volume", "Merge", "a{sv}", options))

    def preview(self):
        """A snapshot is shown, and becomes what the VM is, or does not."""
        name = self.random.choice(sorted(self.tree.snapshots))
        self.tree.down()
        former, known = self.tree.contents(), self.known
        disks = dict.fromkeys(self.tree.disks, self.tree.snapshots[name])
        self.client.finish(self.client.call(self.tree.vm, "VM", "Preview", "a{oo}a{sv}", disks, {}))
        assert self.tree.contents() == self.content_of[name]
        self.known = [disk.copy() for disk in self.known_at[name]]
        self.tree.up()
        self.scatter(8)
        with pytest.raises(DBusError, match="preview"):
            backups.begin(self.client, self.tree.vm)
        if self.chance(0.3):
            self.tree.down()
            self.client.finish(self.client.call(self.tree.vm, "VM", "UndoPreview", "a{sv}", {}))
            self.known = known
            assert self.tree.contents() == former
        else:
            options = variants({"keep_branch": self.chance(0.4)})
            self.left(self.client.call(self.tree.vm, "VM", "CommitPreview", "a{sv}", options), former, known)
        if not self.tree.running():
            self.tree.up()

    def revert(self):
        name = self.random.choice(sorted(self.tree.snapshots))
        self.tree.down()
        former, known = self.tree.contents(), self.known
        self.known = [disk.copy() for disk in self.known_at[name]]
        options = variants({"keep_branch": self.chance(0.4)})
        self.left(self.client.call(self.tree.snapshots[name], "Snapshot", "Revert", "a{sv}", options), former, known)
        assert self.tree.contents() == self.content_of[name]
        self.tree.up()

    def left(self, job, former, known):
        """What becomes of the branch that the VM was on."""
        result = self.client.finish(job)
        if "snapshot" in result:
            name = self.client.get(result["snapshot"], "Snapshot", "Name")
            self.tree.snapshots[name] = result["snapshot"]
            self.keep(name, former, known)
        self.forget(result.get("removed", []))

    def restart(self):
        self.tree.down()
        if self.chance(0.5):
            self.scatter(6)  # which QEMU's tools note in the bitmaps, too
        self.tree.up()

    def die(self):
        """What no QEMU has stored is gone, and what it had open is not to be trusted."""
        self.tree.kill()
        for known in self.known:
            known.crash()

    def crash(self):
        self.die()
        self.tree.up()

    def restart_daemon(self):
        self.daemon.stop()
        self.scatter(6)
        self.daemon.start()

    def kill_daemon(self):
        self.daemon.kill()
        self.scatter(6)
        self.daemon.start()

    def revive(self):
        self.daemon.wait_killed()
        self.scatter_unless_held()
        self.daemon.start()

    def scatter_unless_held(self):
        if self.tree.running() and self.tree.qemu.execute("query-status")["running"]:
            self.scatter(6)

    def job(self, kind):
        return max((p["StartedUsec"], path) for path, p in self.client.of_kind("job").items() if p["Kind"] == kind)[1]

    # --- a sequence of it ---
    def acts(self):
        if len(self.tree.snapshots) > MOST_SNAPSHOTS:
            return [self.delete, self.killed_delete]
        if len(self.checkpoints()) > MOST_CHECKPOINTS:
            return [self.delete_checkpoint]
        acts = [self.pull] * 8 + [self.push] * 5 + [self.pull_down] * 3 + [self.killed_start, self.delete_checkpoint]
        acts += [self.snapshot] * 3 + [self.restart, self.crash, self.restart_daemon, self.kill_daemon, self.flatten, self.overlay,
                                       self.merge]
        if self.tree.snapshots:
            acts += [self.delete, self.killed_delete, self.preview, self.revert]
        return acts

    def round(self):
        self.scatter(8)
        act = self.random.choice(self.acts())
        self.done.append(act.__name__)
        act()
        self.check()

    def check(self):
        assert self.client.of_kind("backup") == {} and backups.exports_left(self.client) == []
        assert backups.leftovers(self.daemon.directory, self.tree.pools, self.tree.qemu) == []
        assert [name for name in os.listdir(self.target) if name.endswith(".part")] == []
        self.tree.check()
        self.check_checkpoints()
        for name in self.tree.snapshots:
            for number in range(DISKS):
                path = self.client.get(self.tree.volume_of(name, number), "Volume", "Path")
                assert images.content(path) == self.content_of[name][number], f"snapshot {name}, disk {number}"

    def check_checkpoints(self):
        """Those that have to be good are, and those that cannot be are not."""
        self.client.call(self.tree.vm, "VM", "Refresh")
        states = backups.checkpoints(self.client, self.tree.vm)
        problems = backups.problems(self.client, self.tree.vm)
        for disk, known in zip(self.tree.disks, self.known, strict=True):
            for name in known.good:
                assert name in states and (name, disk) not in problems, f"{name} should be good: {problems.get((name, disk))}"
            for name in known.lost & set(states):
                assert (name, disk) in problems, f"{name} cannot be good"
        for name, state in states.items():
            bad = sum((name, disk) in problems for disk in self.tree.disks)
            assert state == ("ok", "partial", "unusable")[(bad > 0) + (bad == DISKS)]


@pytest.mark.parametrize("seed", seeds("1-3", "1-6"))
def test_a_random_sequence(client, directory, daemon, capsys, seed):
    tree = BusyTree(client, directory)
    run = Run(tree, daemon, directory, seed)
    began = time.monotonic()
    try:
        for _ in range(ROUNDS):
            run.round()
    except BaseException:
        print(f"seed {seed}: {'; '.join(run.done)}")
        raise
    finally:
        tree.close()
    with capsys.disabled():
        print(f"\n  seed {seed}: {run.counts['full']} full and {run.counts['incremental']} incremental backups of a disk, "
              f"{run.counts['bytes'] >> 10} KiB of {run.counts['of'] >> 10} KiB; {time.monotonic() - began:.0f} s")
