# SPDX-License-Identifier: MIT
"""The form of what volchainctl prints, its exit status, and what it says where nobody answers."""
import glob
import json
import os
import re
import signal
import subprocess

import pytest
from jeepney import HeaderFields

from harness.ctl import PROGRAM, Ctl
from harness.fake_daemon import FakeDaemon

ALLOW_INTERACTION = 4  # the header flag ALLOW_INTERACTIVE_AUTHORIZATION


@pytest.fixture
def fake(bus):
    fake = FakeDaemon(bus.address)
    yield fake
    fake.close()


@pytest.fixture
def pools(ctl, daemon, directory):
    """Enough of them for a screen of ten lines to be too small."""
    for number in range(12):
        ctl.ok("pool", "create", f"pool{number:02}", f"{directory}/pool{number:02}", "--create")


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
    for path in glob.glob(os.path.join(os.path.dirname(__file__), "test_client_*.py")):
        with open(path) as f:
            tests += f.read()
    for verb in table["verbs"]:
        words = [word for word in (verb["noun"], verb["verb"]) if word]
        assert ", ".join(f'"{word}"' for word in words) in tests, f"no test runs volchainctl {' '.join(words)}"
        for option in verb["options"]:
            assert f'"--{option["name"]}' in tests, f"no test gives --{option['name']} to {' '.join(words)}"


# --- form ---
def test_json_forms(ctl, pools):
    short = ctl.ok("pool", "list", "--json=short")
    assert short.count("\n") == 1 and ctl.ok("pool", "list", "-j") == short
    pretty = ctl.ok("--json=pretty", "pool", "list")
    assert pretty.startswith('[\n  {\n    "name": "pool00",') and json.loads(pretty) == json.loads(short)
    assert ctl.ok("pool", "list", "--json=off").startswith("NAME ")


def test_legend(ctl, pools):
    lines = ctl.ok("pool", "list", "--no-legend").splitlines()
    assert len(lines) == 12 and lines[0].startswith("pool00 ")


def test_status(ctl, pools):
    text = ctl.ok("status")
    assert text.lstrip().startswith("Version: ") and "Pool count: 12\n" in text
    status = ctl.json("status")
    assert status["pool_count"] == 12 and status["running_jobs"] == 0 and "snapshots" in status["features"]


def test_colours_only_where_they_are_wanted(ctl, pools):
    def shown(**environment):
        with ctl.terminal("pool", "list", "--no-pager", rows=50, columns=200, **environment) as terminal:
            status, text = terminal.rest()
        assert status == 0
        return text
    assert "\x1b[32mok\x1b[0m" in shown() and "\x1b[1mNAME\x1b[0m" in shown()
    for environment in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert "\x1b" not in shown(**environment)
    assert "\x1b" not in ctl.ok("pool", "list")
    with ctl.terminal("pool", "show", "none") as terminal:
        status, text = terminal.rest()
    assert status == 1 and text == "volchainctl: \x1b[31mthere is no pool 'none'\x1b[0m\n"


def test_pager_only_where_it_is_needed(ctl, pools, directory):
    pager = f"{directory}/pager"
    with open(pager, "w") as f:
        f.write("#!/bin/sh\necho paged\nexec cat\n")
    os.chmod(pager, 0o755)

    def shown(*words, rows=10, **environment):
        with ctl.terminal("pool", "list", *words, rows=rows, columns=200, **environment) as terminal:
            status, text = terminal.rest()
        assert status == 0 and "pool11" in text, text
        return text.startswith("paged\n")
    assert shown(PAGER=pager) and shown(VOLCHAIN_PAGER=pager, PAGER="false") and shown("--json=pretty", VOLCHAIN_PAGER=pager)
    assert not shown(PAGER=pager, rows=40), "it fits"
    assert not shown("--no-pager", PAGER=pager)
    assert not shown(VOLCHAIN_PAGER="", PAGER=pager) and not shown(PAGER="cat")
    assert not shown(PAGER=f"{directory}/none"), "without a pager it is printed"
    assert ctl.ok("pool", "list", PAGER=pager).startswith("NAME"), "no terminal"


def test_pager_under_sudo_is_no_shell(ctl, pools):
    """Neither the pager that the user names runs as root, nor a command from inside less."""
    with ctl.terminal("pool", "list", rows=10, columns=200, PAGER="echo paged", LESSSECURE="0", SUDO_UID="1000") as terminal:
        assert "paged" not in terminal.until("pool05")
        terminal.type("!")
        terminal.until("Command not available")
        terminal.type("\rq")
        assert terminal.rest()[0] == 0


def test_pager_that_is_left_early(ctl, pools):
    with ctl.terminal("pool", "list", rows=10, PAGER="true") as terminal:
        assert terminal.rest() == (0, "")


def test_output_that_cannot_be_written(ctl, pools):
    with open("/dev/full", "w") as full:
        result = subprocess.run([PROGRAM, "pool", "list"], env=ctl.environment, stdout=full, stderr=subprocess.PIPE, text=True,
                                timeout=60)
    assert result.returncode == 1 and "cannot print all of the answer: No space left on device" in result.stderr
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait(20)
    result = subprocess.run([PROGRAM, "pool", "list"], env=ctl.environment, stdout=reader.stdin, timeout=60)
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
