# SPDX-License-Identifier: MIT
"""A VM whose memory can be told: a busy guest (busy_guest.py) counts its writes in RAM and leaves the count on its disk, so
that memory and disk of one instant go together, and those of two do not."""
import os
import time

from harness import images
from harness.busy_guest import BusyGuest, check_content
from harness.client import DBusError, variants
from harness.qemu import Qemu

MIB = 1 << 20
SIZE = 32 * MIB
REGION = 8 * MIB


class MemoryVm:
    """VM "web" with one disk in a pool of its own, which runs; `device`: further properties of its device. What
    LaunchArguments says starts it again."""

    def __init__(self, client, directory, pool="pool", memory=32, extra=(), config=b"<then/>", device=None, **options):
        self.client, self.directory, self.memory, self.extra = client, str(directory), memory, list(extra)
        self.pool_path = pool if os.path.isabs(pool) else f"{directory}/{pool}"
        os.makedirs(self.pool_path, exist_ok=True)
        self.options = options
        self.booted_anew = False
        self.is_killed = False  # now and then: for tests that do that
        path = BusyGuest.make(f"{self.pool_path}/root.qcow2", SIZE, region=REGION, rests=True)
        if (user := options.get("user")) is not None:
            os.chown(path, user, user)
        self.guest = BusyGuest(f"{directory}/vm", [{"path": path, "device": device or {}}], region=REGION, memory=memory,
                               extra=self.extra, **options).start()
        self.vm = client.register_vm("web", qmp_socket=self.guest.qmp, config=config, config_type="application/xml")
        [self.disk] = [disk for disk in self.get("Disks") if client.get(disk, "Disk", "ActivePath") == path]

    def get(self, name):
        return self.client.get(self.vm, "VM", name)

    def active(self):
        return self.client.get(self.disk, "Disk", "ActivePath")

    # --- snapshots ---
    def take(self, name="s1", **options):
        """(properties, result)"""
        result = self.client.finish(self.client.create_snapshot(self.vm, name, **{"memory": True, **options}))
        return self.client.get_all(result["snapshot"], "Snapshot"), result

    def snapshot(self, name="s1"):
        [path] = [path for path, p in self.client.of_kind("snapshot").items() if p["Name"] == name]
        return path

    def of_snapshot(self, name, method, **options):
        return self.client.call(self.snapshot(name), "Snapshot", method, "a{sv}", variants(options))

    def revert(self, name="s1", **options):
        return self.client.finish(self.of_snapshot(name, "Revert", **options))

    def preview(self, name="s1", **options):
        return self.client.finish(self.of_snapshot(name, "Preview", **options))

    def undo(self):
        return self.client.finish(self.client.call(self.vm, "VM", "UndoPreview", "a{sv}", {}))

    def commit(self, **options):
        return self.client.finish(self.client.call(self.vm, "VM", "CommitPreview", "a{sv}", variants(options)))

    def refused(self, call):
        """(error, message) of a call that is refused, or starts a job that fails."""
        try:
            return self.client.failure(call())
        except DBusError as error:
            return error.short, error.message

    # --- the machine ---
    def down(self, how="kill"):
        """It ends: killed, as a power cut, or in order."""
        getattr(self.guest, how)()
        self.client.call(self.vm, "VM", "Refresh")
        assert self.get("State") in ("shutoff", "crashed")

    def arguments(self, **options):
        return self.client.call(self.vm, "VM", "LaunchArguments", "a{sv}",
                                variants({"device": BusyGuest.DEVICE, **options}))

    def launch(self, paused=False, arguments=None, memory=None):
        """A QEMU with what LaunchArguments says; paused: with -S, so that its guest stands still."""
        arguments = self.arguments() if arguments is None else arguments
        self.booted_anew |= "-incoming" not in arguments
        options = {**self.options, "memory": memory or self.memory, "extra": [*self.extra, *arguments]}
        self.guest = BusyGuest(f"{self.directory}/vm", [], region=REGION, **options)
        if paused:
            self.guest.argv.append("-S")
        Qemu.start(self.guest)
        self._refresh()
        return self.guest

    def _refresh(self, timeout=20):
        """The daemon may have seen that QEMU before, and load its memory: a job is not waited for."""
        end = time.monotonic() + timeout
        while True:
            try:
                return self.client.call(self.vm, "VM", "Refresh")
            except DBusError as error:
                if error.short != "Busy" or time.monotonic() > end:
                    raise
            time.sleep(0.02)

    def load_job(self, number=0):
        """The job that has loaded, or loads, the memory; None where there is none."""
        jobs = sorted((p["StartedUsec"], path) for path, p in self.client.of_kind("job").items()
                      if p["Kind"] == "load-memory")
        return jobs[number][1] if number < len(jobs) else None

    def loaded(self, number=0, timeout=30):
        """Waits for the job that loads the memory; (state, error, message, result)."""
        end = time.monotonic() + timeout
        while (job := self.load_job(number)) is None:
            assert time.monotonic() < end, "nobody loads the memory"
            time.sleep(0.02)
        return self.client.wait(job)

    # --- what has to be true ---
    def count(self):
        """Of the writes, in the guest's RAM."""
        return self.guest.written()

    def check_of_one_instant(self):
        """The guest stands still: what its RAM counts is what its disk holds."""
        count = self.count()
        check_content(self.active(), self.guest.blocks, self.guest.block, count, self.booted_anew)
        return count

    def files(self):
        """Of the pool: without manifests, and copies of variable stores."""
        return {f"{self.pool_path}/{name}" for name in os.listdir(self.pool_path)
                if name != ".volchain" and ".nvram" not in name}

    def check_files(self):
        """Each file belongs to a record, and each record has its file."""
        volumes = {p["Path"] for p in self.client.of_kind("volume").values()}
        memories = {p["MemoryPath"] for p in self.client.of_kind("snapshot").values()} - {""}
        assert self.files() == volumes | memories
        # Of an image that a guest writes to, a look from outside finds half of what is under way.
        busy = {self.active()} if self.get("State") == "running" else set()
        for path in volumes - busy:
            (images.check_after_crash if self.is_killed else images.check)(path)

    def migration_settings(self):
        capabilities = {c["capability"]: c["state"] for c in self.guest.execute("query-migrate-capabilities")}
        return capabilities, self.guest.execute("query-migrate-parameters")["max-bandwidth"]

    def pauses(self):
        """[(name, seconds)] of the guest being stopped and resumed since it was asked last, by QEMU's clock."""
        self.guest.execute("query-status")
        found = [(e["event"], e["timestamp"]["seconds"] + e["timestamp"]["microseconds"] / 1e6)
                 for e in self.guest.monitor.events if e["event"] in ("STOP", "RESUME")]
        self.guest.monitor.events.clear()
        return found

    def end(self):
        self.guest.kill()
