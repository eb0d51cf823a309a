# SPDX-License-Identifier: MIT
"""A real Linux with a real guest agent in a QEMU of its own, made by tests/guest/build_guest.sh."""
import os
import select
import subprocess
import time

from harness.channels import QGA, request
from harness.qemu import Qemu
from harness.saved_boot import saved_boot

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
# Where the guest is built, once for all tests and for ./demo.
CACHE = os.environ.get("VOLCHAIN_GUEST", os.path.join(ROOT, "build/guest"))

# rdrand: without it the kernel waits for randomness.
MACHINE = ["-cpu", "qemu64,+rdrand"]
# Without them it boots too, in twice the time.
KERNEL_OPTIONS = ("console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check "
                  "apparmor=0 audit=0 random.trust_cpu=on rcupdate.rcu_expedited=1 cryptomgr.notests "
                  "nowatchdog noreplace-smp 8250.nr_uarts=1 i8042.noaux i8042.nokbd "
                  "initcall_blacklist=init_kprobe_trace,crypto_kdf108_init")


def build(cache=CACHE):
    """The directory with kernel and initramfs; builds them where they are not there."""
    subprocess.run([os.path.join(ROOT, "tests/guest/build_guest.sh"), cache], check=True, timeout=900)
    return cache


# Of a guest that is saved after its boot. One with other devices or another size is another machine.
MEMORY = 128


class LinuxGuest(Qemu):
    """Its disks are /dev/vda ..., mounted on /mnt/vda ... where they hold a file system.

    boots: it boots; otherwise, where its machine is no other than that, it goes on from a boot that was saved, and has come to its
    disks since (/proc/cmdline is then of that boot, and so is its boot_id).

    image: where build() has put kernel and initramfs.
    options: what tests/guest/rootfs/init understands: writer=1, writer_ms=20, agent="none" or "hung",
    nomount=1, mountopts="ro".
    panic: what QEMU does when the guest panics (-action panic=...); without it the guest reboots.
    standing: start() does not wait for the guest, which does not run by itself: wait_booted() does, later.
    """

    def __init__(self, directory, disks, image=CACHE, xfs=False, panic=None, memory=MEMORY, extra=(), standing=False,
                 boots=False, **options):
        self.standing, self.image, self.options = standing, image, [f"{name}={value}" for name, value in options.items()]
        self.boots = boots or standing or xfs or memory != MEMORY or bool(extra)
        self.control_path = os.path.join(str(directory), "control.sock")
        self.acknowledged_path = os.path.join(str(directory), "acknowledged")
        self.control = None
        words = [KERNEL_OPTIONS, *self.options]
        argv = MACHINE + [
            "-kernel", f"{image}/vmlinux", "-initrd", f"{image}/initrd{'-xfs' if xfs else ''}.img",
            "-append", " ".join(words), "-serial", f"file:{directory}/console.log",
            "-chardev", f"socket,id=control,path={self.control_path},server=on,wait=off",
            "-device", "virtserialport,chardev=control,name=org.volchain.test.control",
            "-chardev", f"file,id=acknowledged,path={self.acknowledged_path}",
            "-device", "virtserialport,chardev=acknowledged,name=org.volchain.test.ack"]
        if panic:
            argv += ["-device", "pvpanic-pci", "-action", f"panic={panic}"]
        if not self.boots:
            argv += ["-incoming", f"exec:exec cat {saved_boot(image, lambda place: LinuxGuest(place, [], image, boots=True, hold=1))}"]
        super().__init__(directory, disks, running=True, agent=True, memory=memory, extra=argv + list(extra))

    def start(self, timeout=90):
        """Returns when the guest has booted: its disks are mounted, its agent is started."""
        super().start()
        if not self.boots:
            self.monitor.event("RESUME")
        if not self.standing:
            self.wait_booted(timeout)
        if not self.boots:
            self.shell(f"start saved {' '.join(self.options)}")
        return self

    def wait_booted(self, timeout=90):
        """Also after a reboot."""
        if self.control is None:
            self.control = QGA.to(self.control_path)
        self.control.sync(timeout)

    def shell(self, script, **options):
        """Runs a script in the guest, by an agent of the test's own; its output."""
        return self.control.shell(script, **options)

    def start_shell(self, script):
        """Starts one that will not come to its end, as it takes the guest down."""
        self.control.send(request("guest-exec", {"path": "/bin/sh", "arg": ["-c", script]}))

    # --- the writer ---
    def acknowledged(self):
        """The number of the last record that the writer in the guest knows to be on its disks; 0 for none."""
        with open(self.acknowledged_path) as f:
            lines = f.read().rpartition("\n")[0].split("\n")
        assert not lines[-1].startswith("failed"), f"the writer in the guest {lines[-1]}"
        return int(lines[-1] or 0)

    def wait_acknowledged(self, number, timeout=60):
        end = time.monotonic() + timeout
        while self.acknowledged() < number:
            assert self.process.poll() is None, "QEMU has ended"
            assert time.monotonic() < end, f"record {number} is not acknowledged, {self.acknowledged()} is"
            select.select([], [], [], 0.01)  # a file that QEMU writes wakes nobody
        return self.acknowledged()

    def wait_writing(self, records=10, timeout=60):
        """Until the writer has got so much further: nothing is frozen."""
        return self.wait_acknowledged(self.acknowledged() + records, timeout)

    # --- the agent that the daemon talks to ---
    def agent_says_frozen(self):
        """What the agent holds to be so: the mark that survives a crash of it (qga/main.c, isfrozen)."""
        return "isfrozen" in self.shell("ls /run/ga 2>/dev/null || true")

    def agent_client(self):
        """A connection to the agent. Nobody else may have one: the daemon does not run, or knows no VM."""
        agent = QGA.to(self.agent)
        agent.sync()
        return agent

    def shutdown(self, timeout=60):
        """The guest powers itself off, in order."""
        self.control.send({"execute": "guest-shutdown"})
        self.process.wait(timeout)
        self._reap()

    def _reap(self):
        super()._reap()
        if self.control:
            self.control.close()
        self.control = None
