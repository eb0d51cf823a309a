# SPDX-License-Identifier: MIT
"""A Linux guest that was saved after its boot, before it had any disk: a guest that goes on from there is up in two fifths of
the CPU time of a boot. It finds its disks as hot-plugged ones (rootfs/bin/start)."""
import fcntl
import hashlib
import os
import shutil
import tempfile
import time

# A boot takes seconds.
LIMIT = 300
QEMU = shutil.which("qemu-system-x86_64") or ""


def saved_boot(image, make):
    """The file, in the directory of the guest's kernel; made where it is not there, of what make(directory) gives: a guest without
    disks, which is started and ended here. Any number may ask at once: one makes it, the others wait."""
    name = f"saved-{_fingerprint(image)}"
    path = os.path.join(image, name)
    with open(os.path.join(image, "saved.lock"), "w") as lock:
        _lock(lock)
        if not os.path.exists(path):
            for old in os.listdir(image):
                if old.startswith("saved-"):
                    os.unlink(os.path.join(image, old))
            _save(path, make)
    return path


def _lock(file):
    end = time.monotonic() + LIMIT
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert time.monotonic() < end, f"another one has held {file.name} for {LIMIT} s"
        time.sleep(0.05)  # flock() has no limit of its own


def _save(path, make):
    with tempfile.TemporaryDirectory(prefix="vc-") as directory:
        guest = make(directory)
        try:
            guest.start()
            guest.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            guest.execute("migrate", uri=f"exec:exec cat > {path}.part")
            guest.monitor.event("MIGRATION", status="completed")
        finally:
            guest.kill()
    os.rename(f"{path}.part", path)


def _fingerprint(image):
    """Of what the guest and the machine are made of."""
    digest = hashlib.sha256()
    here = os.path.dirname(__file__)
    machine = [os.path.join(here, name) for name in ("saved_boot.py", "linux_guest.py", "qemu.py")]
    for made_from in (os.path.join(image, "stamp"), *machine):
        with open(made_from, "rb") as f:
            digest.update(f.read())
    status = os.stat(QEMU)
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
