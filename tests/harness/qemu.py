# SPDX-License-Identifier: MIT
"""A QEMU without a guest: a machine with disks, written to through its monitor. It starts in a tenth of a second."""
import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../guest"))
import guest  # noqa: E402


class Qemu:
    """disks: paths (-blockdev, node vol0 ...), or dicts: path, fmt, serial, drive=True (-drive, generated names),
    device (further properties), node, blockdevs. `second`: the socket of a second monitor, for the test itself, is at
    .test; the daemon gets .qmp."""

    def __init__(self, directory, disks, running=False, extra=(), agent=False):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.qmp = os.path.join(self.directory, "qmp.sock")
        self.test = os.path.join(self.directory, "test.sock")
        self.agent = os.path.join(self.directory, "agent.sock")
        self.argv = ["qemu-system-x86_64", "-M", "q35", "-nodefaults", "-no-user-config", "-display", "none",
                     "-accel", "tcg", "-m", "32", "-qmp", f"unix:{self.qmp},server=on,wait=off",
                     "-qmp", f"unix:{self.test},server=on,wait=off"]
        if not running:
            self.argv += ["-S"]
        if agent:
            self.argv += ["-device", "virtio-serial-pci",
                          "-chardev", f"socket,id=agent0,path={self.agent},server=on,wait=off",
                          "-device", "virtserialport,id=agentport,chardev=agent0,name=org.qemu.guest_agent.0"]
        for number, disk in enumerate(disks):
            self._add(number, {"path": disk} if isinstance(disk, (str, os.PathLike)) else dict(disk))
        self.argv += list(extra)
        self.process, self._monitor = None, None

    def _add(self, number, disk):
        node = disk.get("node", f"vol{number}")
        serial = disk.get("serial", f"serial{number}")
        device = {"driver": "virtio-blk-pci", "id": f"dev{number}", "serial": serial, **disk.get("device", {})}
        if disk.get("drive"):
            fmt = disk.get("fmt", "qcow2")
            self.argv += ["-drive", f"file={disk['path']},format={fmt},if=none,id=drive{number}" + disk.get("options", "")]
            device["drive"] = f"drive{number}"
        else:
            for blockdev in disk.get("blockdevs") or guest.blockdevs(node, disk["path"], disk.get("fmt"), disk.get("ro", False)):
                self.argv += ["-blockdev", json.dumps(blockdev)]
            device["drive"] = node
        self.argv += ["-device", json.dumps(device)]

    def start(self):
        for path in (self.qmp, self.test, self.agent):
            if os.path.exists(path):
                os.unlink(path)
        with open(os.path.join(self.directory, "qemu.log"), "wb") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _ = self.monitor
        return self

    @property
    def monitor(self):
        """The test's own monitor."""
        if self._monitor is None:
            while not os.path.exists(self.test):
                if self.process.poll() is not None:
                    raise RuntimeError("qemu ended: " + open(os.path.join(self.directory, "qemu.log")).read())
            self._monitor = guest.QMP(self.test)
        return self._monitor

    def execute(self, command, **arguments):
        return self.monitor.execute(command, **arguments)

    def write(self, device, pattern, offset, length):
        """As a guest would: through the device's backend."""
        out = self.execute("human-monitor-command",
                           **{"command-line": f"qemu-io -d {device} \"write -P {pattern} {offset} {length}\""})
        if "wrote" not in out:
            raise RuntimeError(out)

    def nodes(self):
        return {n["node-name"]: n for n in self.execute("query-named-block-nodes", flat=True)}

    def active_file(self, device):
        """The file that a device writes to."""
        for block in self.execute("query-block"):
            if block.get("qdev", "").startswith((device, f"/machine/peripheral/{device}/")):
                return block["inserted"]["image"]["filename"]
        raise KeyError(device)

    def quit(self):
        try:
            self.execute("quit")
        except ConnectionError:
            pass
        self._reap()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self._reap()

    def _reap(self):
        if self.process:
            self.process.wait(30)
        if self._monitor:
            self._monitor.close()
        self._monitor = None
