# SPDX-License-Identifier: MIT
"""One daemon with objects of every kind for all tests of a file, where they leave it as it was."""
import os
import shutil
import tempfile

import pytest

from harness.ctl import Ctl
from harness.world import World


@pytest.fixture(scope="module")
def world():
    directory = tempfile.mkdtemp(prefix="vc-")
    os.chmod(directory, 0o755)
    world = World(directory)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The end of the daemon's log goes with a failure."""
    outcome = yield
    report = outcome.get_result()
    world = item.funcargs.get("world") if hasattr(item, "funcargs") else None
    if report.failed and world is not None:
        report.sections.append(("volchaind", world.daemon.text()[-8000:]))


@pytest.fixture
def ctl(bus):
    """volchainctl on the test's bus."""
    return Ctl(bus.address)
