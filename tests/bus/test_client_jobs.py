# SPDX-License-Identifier: MIT
"""What volchainctl does with jobs: it waits, shows how they go, lets go of them at ^C, and says how they ended."""
import json
import re
import signal
import threading
import time

import pytest

from harness.agent_double import AgentDouble, properly, then, when
from harness.chains import make_chain
from harness.fake_daemon import JOB, FakeDaemon

MIB = 1 << 20
FREEZE = "guest-fsfreeze-freeze"
RUNNING = {"Kind": "create-disk", "Step": "format", "State": "running", "FinishedUsec": 0}


@pytest.fixture
def config():
    return '[quiesce]\nagent-timeout = "10s"\nfreeze-timeout = "60s"\nfreeze-limit = "60s"\n'


@pytest.fixture
def agent(directory):
    double = AgentDouble(f"{directory}/agent.sock")
    yield double
    double.close()


@pytest.fixture
def held(ctl, daemon, agent, qemus, pool_directory):
    """A VM whose next snapshot waits for the guest's freeze until the event is set."""
    qemu = qemus("vm", [make_chain(pool_directory, "root")[0]], running=True)
    ctl.ok("vm", "register", "web", "--qmp-socket", qemu.qmp, "--agent-socket", agent.path)
    event = threading.Event()
    agent.once(FREEZE, then(when(event), properly))
    yield event
    event.set()


@pytest.fixture
def fake(bus):
    fake = FakeDaemon(bus.address)
    yield fake
    fake.close()


# --- against the daemon ---
def test_interrupt_lets_the_job_go_on(ctl, held, agent):
    with ctl.terminal("snapshot", "create", "web", "one", columns=120) as terminal:
        terminal.until("create-snapshot: freeze")
        agent.wait_asked(FREEZE)
        terminal.type("\x03")
        status, text = terminal.rest()
    assert status == -signal.SIGINT
    [job] = ctl.json("job", "list", "--running")
    short = job["id"][:8]
    assert (f"Job {short} goes on. See it with 'volchainctl job show {short}', stop it with "
            f"'volchainctl job cancel {short}'.") in text
    assert job["kind"] == "create-snapshot" and job["subject"]["name"] == "web" and job["state"] == "running"
    assert ctl.json("vm", "list")[0]["job"]["id"] == job["id"]
    held.set()
    result = ctl.json("job", "wait", short)
    assert result["snapshot"]["name"] == "one"
    assert ctl.ok("job", "list", "--running") == "No jobs.\n"


def test_no_wait(ctl, held):
    job = ctl.ok("--no-wait", "snapshot", "create", "web", "one").strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", job)
    shown = ctl.json("job", "show", job)
    assert shown["state"] == "running" and shown["finished_usec"] is None and shown["result"] == {}
    assert shown["error"] is None and shown["owner_uid"] == 0
    listed = ctl.ok("job", "list")
    assert listed.splitlines()[0].split() == ["ID", "KIND", "SUBJECT", "STATE", "STEP", "PROGRESS", "STARTED", "ELAPSED"]
    assert job[:8] in listed and job not in listed
    message = ctl.fails("--no-wait", "snapshot", "create", "web", "two")
    assert "web" in message and job in message, "Busy names the holder"
    held.set()
    waited = ctl.run("job", "wait", job)
    assert waited.returncode == 0 and "Snapshot: one" in waited.stdout
    again = ctl.run("-q", "job", "wait", job)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert ctl.json("job", "show", job)["result"]["snapshot"]["name"] == "one"
    made = ctl.json("disk", "create", ctl.json("pool", "list")[0]["name"], "x", "1M", "--no-wait")
    assert made["job"]["kind"] == "job" and ctl.json("job", "wait", made["job"]["id"])["disk"]["name"] == "x"


def test_cancel(ctl, held, agent):
    job = ctl.ok("--no-wait", "snapshot", "create", "web", "one").strip()
    agent.wait_asked(FREEZE)
    waiter = ctl.start("job", "wait", job)
    assert ctl.ok("job", "cancel", job[:8]) == ""
    held.set()
    out, err = waiter.communicate(timeout=60)
    assert waiter.returncode == 1 and out == "" and "stopped by its user" in err.splitlines()[-1], err
    shown = ctl.json("job", "show", job)
    assert shown["state"] == "cancelled" and shown["error"]["name"] == "org.volchain1.Error.Cancelled"
    assert "has ended already" in ctl.fails("job", "cancel", job)
    assert ctl.json("snapshot", "list") == []


def test_waiting_for_several(ctl, daemon, pool_directory):
    ctl.ok("pool", "create", "main", pool_directory)
    good = ctl.ok("--no-wait", "disk", "create", "main", "good", "1M").strip()
    bad = ctl.ok("--no-wait", "disk", "import", "main", "none.qcow2").strip()
    result = ctl.run("job", "wait", good, bad)
    assert result.returncode == 1 and "Disk: good" in result.stdout and "none.qcow2" in result.stderr
    assert "there is no job" in ctl.fails("job", "wait", good, "feedbeef")


def test_daemon_that_ends_meanwhile(ctl, held, agent, daemon):
    with ctl.terminal("snapshot", "create", "web", "one", columns=200) as terminal:
        agent.wait_asked(FREEZE)
        terminal.until("create-snapshot: freeze")
        daemon.kill()
        status, text = terminal.rest()
    assert status == 1
    assert "volchaind ended while job" in text and "carries the job on or undoes it: see 'volchainctl job show" in text


# --- against a peer that says what it is told ---
def test_progress_on_a_terminal(ctl, fake):
    with ctl.terminal("job", "wait", JOB, columns=60) as terminal:
        call = fake.wait_call(**RUNNING, DoneBytes=0, TotalBytes=100 * MIB)
        assert terminal.until("of 100M").endswith("create-disk: format  [>                 ]    0%  0B of 100M")
        fake.change(DoneBytes=25 * MIB)
        line = terminal.until("25M of 100M")
        assert line.lstrip("\x1b[K").startswith("\rcreate-disk: format  [====>") and " 25%  " in line
        fake.change(Step="finish", DoneBytes=0, TotalBytes=0)
        terminal.until("\rcreate-disk: finish")
        fake.end(call, result={"volumes": ("t", 3)})
        status, text = terminal.rest()
    assert status == 0 and text == "\x1b[K\r\x1b[KVolumes: 3\n"


def test_rate(ctl, fake):
    with ctl.terminal("job", "wait", JOB, columns=80) as terminal:
        call = fake.wait_call(**RUNNING, DoneBytes=0, TotalBytes=100 * MIB)
        terminal.until("of 100M")
        time.sleep(0.6)  # a rate is shown when half a second has told something
        fake.change(DoneBytes=50 * MIB)
        terminal.until(r"50%  50M of 100M  [\d.]+M/s")
        fake.end(call)
        assert terminal.rest()[0] == 0


def test_steps_without_a_terminal(ctl, fake):
    for options, expected in ((), "create-disk: format\ncreate-disk: finish\n"), (("-q",), ""):
        process = ctl.start("job", "wait", JOB, *options)
        call = fake.wait_call(**RUNNING)
        fake.change(DoneBytes=MIB, TotalBytes=2 * MIB)  # the same step: no line
        fake.change(Step="finish")
        fake.end(call)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", expected)


def test_a_change_right_after_the_first_look(ctl, fake):
    """What is told later counts, although it may be handled earlier."""
    process = ctl.start("job", "wait", JOB)
    call = fake.wait_call(at_once={"Step": "finish"}, **RUNNING)
    fake.end(call)
    _, err = process.communicate(timeout=30)
    assert err.splitlines()[-1] == "create-disk: finish"


def test_wait_outlasts_the_time_limit_of_calls(ctl, fake):
    process = ctl.start("job", "wait", JOB, SYSTEMD_BUS_TIMEOUT="1s")
    call = fake.wait_call(**RUNNING)
    time.sleep(1.5)
    assert process.poll() is None
    fake.end(call)
    assert process.wait(30) == 0
    process.communicate()


def test_interrupt_says_so_without_a_terminal_too(ctl, fake):
    process = ctl.start("job", "wait", JOB)
    fake.wait_call(**RUNNING)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT and out == ""
    assert err.splitlines()[-1].startswith("Job 64c0ffee goes on.")
    quiet = ctl.start("-q", "job", "wait", JOB)
    fake.wait_call(**RUNNING)
    quiet.send_signal(signal.SIGINT)
    assert quiet.communicate(timeout=30) == ("", "") and quiet.returncode == -signal.SIGINT


def test_interrupt_that_is_to_be_ignored(ctl, fake):
    """As of a command that a script runs in the background."""
    process = ctl.start("job", "wait", JOB, interrupt=signal.SIG_IGN)
    call = fake.wait_call(**RUNNING)
    process.send_signal(signal.SIGINT)
    fake.end(call)
    assert process.communicate(timeout=30) == ("", "create-disk: format\n") and process.returncode == 0


def test_errors_are_the_daemons_words(ctl, fake):
    process = ctl.start("job", "wait", JOB, "--json=pretty")
    call = fake.wait_call(**RUNNING)
    fake.end(call, "failed", ("org.volchain1.Error.NoSpace", "disk 'x': no room\x1b[31m"))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and out == "" and err.splitlines()[-1] == "volchainctl: disk 'x': no room\\x1b[31m"


def test_result_of_every_type(ctl, fake):
    process = ctl.start("job", "wait", JOB, "--json=short")
    call = fake.wait_call(**RUNNING)
    fake.end(call, result={"disk": ("o", "/"), "names": ("as", ["b", "a"]), "frozen-usec": ("t", 1500), "size-bytes": ("t", 4096),
                           "on": ("b", True), "pairs": ("a(ss)", [("x", "y")]), "more": ("a{sv}", {"k": ("u", 1)})})
    out, _ = process.communicate(timeout=30)
    assert json.loads(out) == {"disk": None, "names": ["b", "a"], "frozen_usec": 1500, "size_bytes": 4096, "on": True,
                               "pairs": [{"field0": "x", "field1": "y"}], "more": {"k": 1}}
