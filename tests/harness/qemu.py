# SPDX-License-Identifier: MIT
"""A QEMU without a guest: a machine with disks, written to through its monitor. It starts in a tenth of a second."""
import json
import os
import select
import signal
import socket
import subprocess

from harness.channels import QMP


def blockdevs(node, path, fmt=None, read_only=False):
    """What -blockdev gets for an image: its file, and the format over it."""
    fmt = fmt or ("raw" if str(path).endswith(".raw") else "qcow2")
    file = {"driver": "file", "node-name": f"{node}-file", "filename": str(path), "read-only": read_only}
    image = {"driver": fmt, "node-name": node, "file": f"{node}-file", "read-only": read_only}
    return [file, image if read_only else {**image, "discard": "unmap"}]


class Qemu:
    """disks: paths (-blockdev, node vol0 ...), or dicts: path, fmt, serial, drive=True (-drive, generated names),
    device (further properties), node, blockdevs. The daemon gets the monitor at .qmp; the test has one of its own,
    .monitor; with own_monitor=False there is only the daemon's, as on most hosts. `user`: the uid and gid that it runs
    as, where that is not the test's; the directory becomes that user's."""

    def __init__(self, directory, disks, running=False, extra=(), agent=False, memory=32, user=None, machine="q35",
                 own_monitor=True):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        if user is not None:
            os.chown(self.directory, user, user)
        self.qmp = os.path.join(self.directory, "qmp.sock")
        self.test = os.path.join(self.directory, "test.sock")
        self.agent = os.path.join(self.directory, "agent.sock")
        self.started = os.path.join(self.directory, "started.sock")
        self.argv = ["qemu-system-x86_64", "-M", machine, "-nodefaults", "-no-user-config", "-display", "none",
                     "-accel", "tcg", "-m", str(memory), "-qmp", f"unix:{self.qmp},server=on,wait=off"]
        self.own_monitor = own_monitor
        if own_monitor:
            self.argv += ["-qmp", f"unix:{self.test},server=on,wait=off"]
        if not running:
            self.argv += ["-S"]
        if agent:
            self.argv += ["-device", "virtio-serial-pci",
                          "-chardev", f"socket,id=agent0,path={self.agent},server=on,wait=off",
                          "-device", "virtserialport,id=agentport,chardev=agent0,name=org.qemu.guest_agent.0"]
        for number, disk in enumerate(disks):
            self._add(number, {"path": disk} if isinstance(disk, (str, os.PathLike)) else dict(disk))
        self.argv += list(extra)
        self.process, self.monitor = None, None
        self.log_path = os.path.join(self.directory, "qemu.log")

    def _add(self, number, disk):
        node = disk.get("node", f"vol{number}")
        serial = disk.get("serial", f"serial{number}")
        device = {"driver": "virtio-blk-pci", "id": f"dev{number}", "serial": serial, **disk.get("device", {})}
        if disk.get("drive"):
            fmt = disk.get("fmt", "qcow2")
            self.argv += ["-drive", f"file={disk['path']},format={fmt},if=none,id=drive{number}" + disk.get("options", "")]
            device["drive"] = f"drive{number}"
        else:
            for blockdev in disk.get("blockdevs") or blockdevs(node, disk["path"], disk.get("fmt"), disk.get("ro", False)):
                self.argv += ["-blockdev", json.dumps(blockdev)]
            device["drive"] = node
        self.argv += ["-device", json.dumps(device)]

    def start(self):
        """Returns when it takes commands."""
        for path in (self.qmp, self.test, self.agent, self.started):
            if os.path.exists(path):
                os.unlink(path)
        # The last of its sockets is one to us: it connects to it when it listens on all others.
        argv = self.argv + ["-chardev", f"socket,id=started,path={self.started}"]
        with socket.socket(socket.AF_UNIX) as listener, open(self.log_path, "wb") as log:
            listener.bind(self.started)
            os.chmod(self.started, 0o777)
            listener.listen()
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.identity)
            self._wait_started(listener)
        try:
            if self.own_monitor:
                self.monitor = QMP.to(self.test)
        except OSError:
            self._complain()
        return self

    def _wait_started(self, listener, timeout=30):
        pidfd = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([listener, pidfd], [], [], timeout)
        finally:
            os.close(pidfd)
        if listener not in ready:
            self._complain()

    def _complain(self):
        self.kill()
        with open(self.log_path, errors="replace") as log:
            raise RuntimeError(f"QEMU did not start ({self.process.returncode}): {log.read()}")

    def execute(self, command, **arguments):
        return self.monitor.execute(command, **arguments)

    def write(self, device, pattern, offset, length):
        """As a guest would: through the device's backend."""
        self.io(device, f"write -q -P {pattern} {offset} {length}")

    def io(self, device, command):
        """A command of qemu-io. QEMU prints its output to stdout; an error comes back."""
        backend = f"/machine/peripheral/{device}"
        # What has the drive is not the device itself where that is a virtio-blk-pci.
        if any(child["name"] == "virtio-backend" for child in self.execute("qom-list", path=backend)):
            backend += "/virtio-backend"
        error = self.execute("human-monitor-command", **{"command-line": f'qemu-io -d {backend} "{command}"'})
        if error:
            raise RuntimeError(f"{command}: {error}")

    def top_node(self, device):
        """The node that a device writes to."""
        for block in self.execute("query-block"):
            if block.get("qdev", "").startswith((device, f"/machine/peripheral/{device}/")):
                return self.nodes()[block["inserted"]["node-name"]]
        raise KeyError(device)

    def nodes(self):
        return {n["node-name"]: n for n in self.execute("query-named-block-nodes", flat=True)}

    def active_file(self, device):
        """The file that a device writes to. With options of its own a node's name is a json: description."""
        return self.file_of(self.top_node(device))

    @staticmethod
    def file_of(node):
        name = node["file"]
        return json.loads(name.removeprefix("json:"))["file"]["filename"] if name.startswith("json:") else name

    def quit(self):
        try:
            self.execute("quit")
        except ConnectionError:
            pass
        self._reap()

    def terminate(self):
        """It closes its images in order."""
        self.process.terminate()
        self._reap()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self._reap()

    def _reap(self):
        if self.process:
            self.process.wait(30)
        if self.monitor:
            self.monitor.close()
        self.monitor = None
