# SPDX-License-Identifier: MIT
"""A libvirtd of the benchmark's own: in a mount namespace, so that the host's configuration, domains and
sockets are neither seen nor touched. It needs root and the packages of scripts/install-packages bench.
"""
import os
import select
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree

PROGRAM = "/usr/sbin/libvirtd"
# Where libvirtd keeps what it has, all of it fixed in the program.
PLACES = ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt", "/run/libvirt")

DAEMON_CONFIG = """
unix_sock_dir = "{directory}/sockets"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:{directory}/libvirtd.log"
"""
QEMU_CONFIG = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""
DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disks}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='{path}'/>
      <target dev='vd{letter}' bus='virtio'/>
    </disk>"""


class Unavailable(Exception):
    """There is no libvirt to compare with, and why."""


class LibvirtHost:
    def __init__(self, directory):
        self.directory, self.process = directory, None
        if os.geteuid() != 0:
            raise Unavailable("a libvirtd of our own needs root")
        if not os.path.exists(PROGRAM):
            raise Unavailable(f"{PROGRAM} is not there (scripts/install-packages bench)")
        try:
            import libvirt  # pylint: disable=import-outside-toplevel
        except ImportError as error:
            raise Unavailable("python3-libvirt is not there (scripts/install-packages bench)") from error
        self.library = libvirt
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors come as exceptions
        self.uri = f"qemu+unix:///system?socket={directory}/sockets/libvirt-sock"
        self._start()
        self.connection = libvirt.open(self.uri)
        version = self.connection.getLibVersion()
        self.version = f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"

    def _start(self):
        os.makedirs(f"{self.directory}/sockets")
        script = ["set -e"]
        for place in PLACES:
            private = f"{self.directory}/private{place}"
            os.makedirs(private)
            os.makedirs(place, exist_ok=True)
            script.append(f"mount --bind {private} {place}")
        os.makedirs(f"{self.directory}/private/var/lib/libvirt/qemu")
        with open(f"{self.directory}/private/etc/libvirt/qemu.conf", "w") as f:
            f.write(QEMU_CONFIG)
        with open(f"{self.directory}/libvirtd.conf", "w") as f:
            f.write(DAEMON_CONFIG.format(directory=self.directory))
        script.append(f"exec {PROGRAM} -f {self.directory}/libvirtd.conf -p {self.directory}/libvirtd.pid")
        with open(f"{self.directory}/output", "wb") as out:
            self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", "\n".join(script)],
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self._wait_started()

    def _wait_started(self, timeout=30):
        end = time.monotonic() + timeout
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                try:
                    self.library.open(self.uri).close()
                    return
                except self.library.libvirtError as error:
                    ended, _, _ = select.select([pidfd], [], [], 0.05)  # nothing tells that it is ready
                    if ended or time.monotonic() > end:
                        raise Unavailable(f"libvirtd does not run: {error}; {self._output()}") from error
        finally:
            os.close(pidfd)

    def _output(self):
        with open(f"{self.directory}/output", errors="replace") as f:
            return f.read()[-2000:]

    def start_domain(self, name, disks):
        described = "".join(DISK.format(path=path, letter=letter) for path, letter in zip(disks, "abcdefgh"))
        return self.connection.createXML(DOMAIN.format(name=name, disks=described),
                                         self.library.VIR_DOMAIN_START_PAUSED)

    def snapshot(self, domain, name):
        library = self.library
        flags = library.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | library.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        domain.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>", flags)

    @staticmethod
    def disk_files(domain):
        root = ElementTree.fromstring(domain.XMLDesc())
        return [disk.find("source").get("file") for disk in root.iter("disk")]

    def end_domain(self, domain):
        for snapshot in domain.listAllSnapshots():
            snapshot.delete(self.library.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
        domain.destroy()

    def virsh(self, *words, timeout=60):
        subprocess.run(["virsh", "-q", "-c", self.uri, *words], check=True, timeout=timeout,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def stop(self):
        self.connection.close()
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(f"{self.directory}/private", ignore_errors=True)
