# SPDX-License-Identifier: MIT
"""The freeze window: between the answer to the freeze and the thaw stands one QMP command."""
import pytest

from harness.agent_double import AgentDouble
from harness.chains import make_chain
from harness.tap import Tap, check_window, window

# This build is one with sanitizers; the real figure, below 5 ms, is that of tests/bench.
SHARE_LIMIT = 0.25


@pytest.fixture
def agent(directory):
    double = AgentDouble(f"{directory}/agent.sock")
    yield double
    double.close()


@pytest.mark.parametrize("disks", [1, 4])
def test_one_command(client, directory, pool_directory, qemus, agent, disks):
    paths = [make_chain(pool_directory, f"disk{number}")[0] for number in range(disks)]
    qemu = qemus("vm", paths, running=True)
    tap = Tap(f"{directory}/taps", {"qmp": qemu.qmp, "agent": agent.path})
    try:
        vm = client.register_vm("web", qmp_socket=tap.path("qmp"), agent_socket=tap.path("agent"))
        for _ in range(3):
            tap.messages.clear()
            result = client.finish(client.create_snapshot(vm, quiesce="require"))
            assert check_window(tap.messages, disks) < SHARE_LIMIT
            # What the job says of it is what was seen.
            frozen, _, thaw = window(tap.messages)
            assert abs(result["frozen-usec"] / 1e6 - (thaw.time - frozen.time)) < 0.05
            assert result["switch-usec"] <= result["frozen-usec"]
    finally:
        tap.close()
