# SPDX-License-Identifier: MIT
"""What the demonstration stands on: a bus, a daemon and a guest of its own; and how it shows what it does."""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from harness.bus import Bus
from harness.daemon import Daemon
from harness.filesystems import ENVIRONMENT, make_disk
from harness.linux_guest import LinuxGuest, build

NAME = "org.volchain1"
BOLD, GREEN, RED, PLAIN = ("\033[1m", "\033[32m", "\033[31m", "\033[0m") if sys.stdout.isatty() else ("",) * 4
# For a guest without KVM on a host that has other things to do.
CONFIG = '[quiesce]\nagent-timeout = "10s"\nfreeze-limit = "30s"\n'


class Untrue(Exception):
    """Something that the demonstration promises is not so."""


def heading(text):
    print(f"\n{BOLD}== {text}{PLAIN}", flush=True)


def say(text):
    print(text, flush=True)


def require(truth, text):
    if not truth:
        raise Untrue(text)
    print(f"{GREEN}   ok:{PLAIN} {text}", flush=True)


def complain(text):
    print(f"\n{RED}NOT TRUE:{PLAIN} {text}", file=sys.stderr, flush=True)


def run(*argv, only="", status=0):
    """Shows a command and its output (of it only the lines that match), which has to end with this status."""
    print(f"$ {shlex.join(map(str, argv))}", flush=True)
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=180, check=False,
                          env=ENVIRONMENT)
    shown = [line for line in (done.stdout + done.stderr).splitlines() if re.search(only, line)]
    print("".join(f"  {line}\n" for line in shown), end="", flush=True)
    if done.returncode != status:
        raise Untrue(f"{argv[0]} ends with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Stage:
    """with Stage(disks=2) as stage: the guest runs and writes, the daemon knows nothing of it yet."""

    def __init__(self, disks):
        self.directory = tempfile.mkdtemp(prefix="volchain-demo-")
        os.chmod(self.directory, 0o755)
        self.pool = f"{self.directory}/images"
        self.disks, self.bus, self.daemon, self.guest = disks, None, None, None

    def __enter__(self):
        try:
            self._set()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _set(self):
        os.mkdir(self.pool)
        self.bus = Bus(f"{self.directory}/bus")
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = ENVIRONMENT["DBUS_SYSTEM_BUS_ADDRESS"] = self.bus.address
        self.daemon = Daemon(f"{self.directory}/volchain", self.bus, CONFIG, verbose=False).start()
        paths = [make_disk(f"{self.pool}/disk{number}.qcow2") for number in range(self.disks)]
        self.guest = LinuxGuest(f"{self.directory}/guest", paths, build(), boots=True, writer=1)
        self.guest.start()

    def __exit__(self, *_):
        if self.guest:
            self.guest.kill()
        if self.daemon and self.daemon.process and self.daemon.process.poll() is None:
            self.daemon.stop()
        if self.bus:
            self.bus.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return self.daemon.text() if self.daemon else ""

    # --- D-Bus, by busctl alone ---
    def call(self, path, interface, member, *arguments):
        """Calls a method; the output."""
        return run("busctl", "--system", "--timeout=120", "call", NAME, path, f"{NAME}.{interface}", member,
                   *arguments)

    def get(self, path, interface, name):
        """A property of one simple type, as text."""
        output = run("busctl", "--system", "get-property", NAME, path, f"{NAME}.{interface}", name)
        return output.split(" ", 1)[1].strip().strip('"')

    def get_objects(self, path, interface, name):
        """The object paths in a property."""
        output = run("busctl", "--system", "get-property", NAME, path, f"{NAME}.{interface}", name)
        return re.findall(r'"(/[^"]*)"', output)

    def job(self, path, interface, member, *arguments):
        """Calls a method that starts a job, which has to succeed; {what: object} of its result."""
        output = self.call(path, interface, member, *arguments)
        [job] = re.findall(r'^o "([^"]+)"', output)
        output = self.call(job, "Job", "Wait")
        if not output.startswith('s(ss)a{sv} "succeeded"'):
            raise Untrue(f"the job ended with {output}")
        return dict(re.findall(r'"(\S+)" o "([^"]+)"', output))
