# SPDX-License-Identifier: MIT
"""Fixtures: a directory with a short path (Unix sockets), a bus, the daemon, a client; all gone afterwards."""
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import zlib

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from harness import exports  # noqa: E402
from harness.bus import Bus  # noqa: E402
from harness.client import Client  # noqa: E402
from harness.daemon import Daemon  # noqa: E402
from harness.disks import import_chain  # noqa: E402
from harness.linux_guest import LinuxGuest, build  # noqa: E402
from harness.qemu import Qemu  # noqa: E402

# Of the ways to run a test only each so manieth is taken, one at least. An odd number: ways come in pairs.
EACH = 5


@pytest.fixture
def directory():
    path = tempfile.mkdtemp(prefix="vc-")
    os.chmod(path, 0o755)
    yield path
    # Exports outlive the daemon, and a test that failed may have left some.
    exports.end_all(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def bus(directory):
    bus = Bus(directory + "/bus")
    yield bus
    bus.stop()


@pytest.fixture
def config():
    """The daemon's configuration: a test module may bring its own."""
    return '[quiesce]\nagent-timeout = "1s"\n[qemu]\ngreeting-timeout = "1s"\n'


@pytest.fixture
def daemon(directory, bus, config, request):
    daemon = Daemon(directory + "/d", bus, config).start()
    yield daemon
    if daemon.process.poll() is None:
        daemon.stop()
    text = daemon.text()
    assert "ERROR: AddressSanitizer" not in text and "runtime error:" not in text, text[-6000:]


@pytest.fixture
def client(daemon, bus):
    client = Client(bus.address)
    yield client
    client.close()


@pytest.fixture
def pool_directory(directory):
    path = directory + "/pool"
    os.mkdir(path)
    return path


def pytest_configure(config):
    config.addinivalue_line("markers", "every: all ways to run it, however many they are")


def pytest_collection_modifyitems(config, items):
    """Where there are several ways, ./check takes some of them, always the same; ./check all (VOLCHAIN_ALL=1) takes all."""
    if os.environ.get("VOLCHAIN_ALL"):
        return
    ways = collections.Counter(item.originalname for item in items)
    counts, left_out = collections.Counter(), []
    for item in items:
        # Not the same of each test: where the ways are the methods of the daemon, each method comes to be called.
        first = zlib.crc32(item.originalname.encode()) % min(EACH, ways[item.originalname])
        if counts[item.originalname] % EACH != first and not item.get_closest_marker("every"):
            left_out.append(item)
        counts[item.originalname] += 1
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def pool(client, pool_directory):
    return client.create_pool("main", pool_directory)


@pytest.fixture
def imported(client, pool):
    """Makes floating disks: imported("name", layers, ...) -> (disk, paths)."""
    def make(name, layers=1, **options):
        return import_chain(client, pool, name, layers, **options)
    return make


@pytest.fixture
def qemus(directory):
    """Makes QEMUs that are gone afterwards: qemus("name", disks, ...)."""
    started = []

    def make(name, disks, **options):
        qemu = Qemu(f"{directory}/{name}", disks, **options).start()
        started.append(qemu)
        return qemu
    yield make
    for qemu in started:
        qemu.kill()


@pytest.fixture(scope="session")
def guest_image():
    return build()


@pytest.fixture
def guests(directory, guest_image):
    """Makes real Linux guests that are gone afterwards: guests("name", disks, ...), booted."""
    started = []

    def make(name, disks, **options):
        guest = LinuxGuest(f"{directory}/{name}", disks, image=guest_image, **options)
        started.append(guest)
        return guest.start()
    yield make
    for guest in started:
        guest.kill()


@pytest.fixture
def small_filesystem(directory):
    """Makes file systems of so many MiB, mounted: a tmpfs, so that writes find it full at once."""
    mounted = []

    def make(mebibytes):
        path = f"{directory}/small{len(mounted)}"
        os.mkdir(path)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}M", "tmpfs", path], check=True, timeout=20)
        mounted.append(path)
        return path
    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True, timeout=20)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The end of the daemon's log goes with a failure."""
    outcome = yield
    report = outcome.get_result()
    daemon = item.funcargs.get("daemon") if hasattr(item, "funcargs") else None
    if report.failed and daemon is not None and os.path.exists(daemon.log_path):
        report.sections.append(("volchaind", daemon.text()[-8000:]))
