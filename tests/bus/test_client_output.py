# SPDX-License-Identifier: MIT
"""The form of what volchainctl prints, its exit status, and what it says where nobody answers."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from jeepney import HeaderFields

from harness import interfaces
from harness.ctl import PROGRAM, Ctl, Terminal
from harness.fake_daemon import FakeDaemon

ALLOW_INTERACTION = 4  # the header flag ALLOW_INTERACTIVE_AUTHORIZATION


@pytest.fixture
def fake(bus):
    fake = FakeDaemon(bus.address)
    yield fake
    fake.close()


@pytest.fixture
def real(world):
    """With a daemon that has objects of every kind, at least five of them disks."""
    return Ctl(world.bus.address)


# --- nobody answers ---
def test_no_bus(directory):
    ctl = Ctl(f"unix:path={directory}/none")
    message = ctl.fails("pool", "list")
    assert message.startswith("volchainctl: cannot connect to the system bus") and "is dbus running?" in message
    assert f"{directory}/none" in message and message.count("\n") == 1


def test_no_daemon(ctl, bus):
    message = ctl.fails("pool", "list")
    assert message.startswith("volchainctl: volchaind does not run") and message.count("\n") == 1
    assert "systemctl start volchain.service" in message
    assert ctl.fails("vm", "show", "web") == ctl.fails("status") == ctl.fails("monitor") == message


def test_daemon_that_ends_before_it_answers(ctl, fake):
    process = ctl.start("pool", "remove", "/org/volchain1/pool/64c0ffee_0000_4000_8000_000000000001")
    fake.next_call()
    fake.close()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "volchaind, or the message bus, ended before it answered" in err


def test_bus_that_goes(ctl, bus, fake):
    process = ctl.start("pool", "remove", "/org/volchain1/pool/64c0ffee_0000_4000_8000_000000000001")
    fake.next_call()
    bus.stop()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and out == "" and "the message bus, ended before it answered" in err


# --- the command line ---
@pytest.mark.parametrize("words", [[], ["vm"], ["none"], ["vm", "none"], ["vm", "show"], ["vm", "list", "more"],
                                   ["vm", "list", "--none"], ["disk", "create", "p", "d", "10X"], ["--json=x", "status"],
                                   ["snapshot", "create", "w", "--freeze-timeout=5"],
                                   ["snapshot", "create", "w", "--quiesce=maybe"]], ids=" ".join)
def test_wrong_usage(ctl, bus, words):
    """One line, no dump of the usage, and nobody is asked anything."""
    message = ctl.fails(*words, status=2)
    assert message.startswith("volchainctl: ") and message.count("\n") == 1


def test_help_and_version_need_no_bus(directory):
    ctl = Ctl(f"unix:path={directory}/none")
    assert ctl.ok("--help").startswith("volchainctl [OPTIONS] NOUN VERB")
    assert "  tree VM" in ctl.ok("vm", "--help")
    assert "--quiesce=auto|require|off" in ctl.ok("snapshot", "create", "--help")
    assert re.fullmatch(r"volchainctl \d+\.\d+\.\d+\n", ctl.ok("--version"))


def test_every_verb_is_run_by_a_test():
    table = json.loads(subprocess.run([PROGRAM, "--help", "--json=short"], check=True, capture_output=True, timeout=60).stdout)
    tests = ""
    here = os.path.dirname(__file__)
    for path in glob.glob(f"{here}/test_client_*.py") + glob.glob(f"{here}/../scenario/test_*.py"):
        with open(path) as f:
            tests += f.read()
    for verb in table["verbs"]:
        words = [word for word in (verb["noun"], verb["verb"]) if word]
        assert ", ".join(f'"{word}"' for word in words) in tests, f"no test runs volchainctl {' '.join(words)}"
        for option in verb["options"]:
            assert f'"--{option["name"]}' in tests, f"no test gives --{option['name']} to {' '.join(words)}"


# --- form ---
def test_json_forms(real):
    short = real.ok("disk", "list", "--json=short")
    assert short.count("\n") == 1 and real.ok("disk", "list", "-j") == short
    pretty = real.ok("--json=pretty", "disk", "list")
    assert pretty.startswith('[\n  {\n    "name": "down-data",') and json.loads(pretty) == json.loads(short)
    assert real.ok("disk", "list", "--json=off").startswith("NAME ")


def test_legend(real):
    lines = real.ok("disk", "list", "--no-legend").splitlines()
    assert len(lines) == len(real.json("disk", "list")) and lines[0].startswith("down-data ")


def test_status(real):
    text = real.ok("status")
    assert text.lstrip().startswith("Version: ") and "VM count: 2\n" in text
    status = real.json("status")
    assert status["vm_count"] == 2 and status["running_vms"] == 1 and status["running_jobs"] == 0
    assert "snapshots" in status["features"] and status["disk_count"] == len(real.json("disk", "list"))


def test_colours_only_where_they_are_wanted(real):
    def shown(**environment):
        with real.terminal("disk", "list", rows=50, columns=200, **environment) as terminal:
            status, text = terminal.rest()
        assert status == 0
        return text
    assert "\x1b[32mok\x1b[0m" in shown() and "\x1b[1mNAME\x1b[0m" in shown()
    for environment in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert "\x1b" not in shown(**environment)
    assert "\x1b" not in real.ok("disk", "list")
    with real.terminal("disk", "show", "none") as terminal:
        status, text = terminal.rest()
    assert status == 1 and text == "volchainctl: \x1b[31mthere is no disk 'none'\x1b[0m\n"


def test_pager_only_where_it_is_needed(real, directory):
    pager = f"{directory}/pager"
    with open(pager, "w") as f:
        f.write("#!/bin/sh\necho paged\nexec cat\n")
    os.chmod(pager, 0o755)

    def paged(*words, rows=5, **environment):
        with real.terminal("disk", "list", *words, rows=rows, columns=200, **environment) as terminal:
            status, text = terminal.rest()
        assert status == 0 and "up-serial1" in text, text
        return text.startswith("paged\n")
    assert paged(PAGER=pager) and paged(VOLCHAIN_PAGER=pager, PAGER="false") and paged("--json=pretty", PAGER=pager)
    assert not paged(PAGER=pager, rows=40), "it fits"
    assert not paged("--no-pager", PAGER=pager)
    assert not paged(VOLCHAIN_PAGER="", PAGER=pager) and not paged(PAGER="cat")
    assert not paged(PAGER=f"{directory}/none"), "without a pager it is printed"
    assert real.ok("disk", "list", PAGER=pager).startswith("NAME"), "no terminal"


def test_pager_under_sudo_is_no_shell(real):
    """Neither the pager that the user names runs as root, nor a command from inside less."""
    with real.terminal("job", "list", rows=4, columns=200, PAGER="echo paged", LESSSECURE="0", SUDO_UID="1000") as terminal:
        assert "paged" not in terminal.until("create-disk")
        terminal.type("!")
        terminal.until("Command not available")
        terminal.type("\rq")
        assert terminal.rest()[0] == 0


def test_pager_that_is_left_early(real):
    with real.terminal("disk", "list", rows=5, PAGER="true") as terminal:
        assert terminal.rest() == (0, "")


def test_output_that_cannot_be_written(real):
    with open("/dev/full", "w") as full:
        result = subprocess.run([PROGRAM, "disk", "list"], env=real.environment, stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=60)
    assert result.returncode == 1 and "cannot print all of the answer: No space left on device" in result.stderr
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait(20)
    result = subprocess.run([PROGRAM, "disk", "list"], env=real.environment, stdout=reader.stdin, timeout=60)
    reader.stdin.close()
    assert result.returncode == -signal.SIGPIPE, "as every program that writes to a pipe that nobody reads"


# --- authorization ---
def test_interaction_is_allowed_unless_told_otherwise(ctl, fake):
    for words, expected in ([], ALLOW_INTERACTION), (["--no-ask-password"], 0):
        process = ctl.start("pool", "create", "x", "/x", *words)
        call = fake.next_call()
        assert call.header.fields[HeaderFields.member] == "CreatePool"
        assert int(call.header.flags) & ALLOW_INTERACTION == expected
        fake.refuse(call, "org.freedesktop.DBus.Error.AccessDenied", "not authorized for org.volchain1.manage-pools")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (1, "")
        assert err == "volchainctl: not authorized for org.volchain1.manage-pools\n"


def test_a_user_on_a_terminal_where_there_is_no_polkit(real, directory):
    """Looking is open to everybody; the agent that would ask for a password says nothing of its own."""
    program = shutil.copy(PROGRAM, directory)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program]
    with Terminal([*as_nobody, "pool", "list"], real.environment, columns=200) as terminal:
        status, text = terminal.rest()
    assert status == 0 and "pools listed" in text
    with Terminal([*as_nobody, "pool", "create", "x", directory], {**real.environment, "NO_COLOR": "1"}, columns=200) as terminal:
        status, text = terminal.rest()
    assert status == 1 and text.startswith("volchainctl: not authorized for org.volchain1.manage-pools"), text
    assert text.count("\n") == 1


def test_every_method_is_called_by_the_client():
    """volchainctl can do all that the interface can."""
    source = ""
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "../../client/*.cpp")):
        with open(path) as f:
            source += f.read()
    for interface in interfaces.declared().values():
        for member in (*interface.methods, *interface.signals):
            assert f'"{member}"' in source, f"no verb is made with {interface.name}.{member}"
