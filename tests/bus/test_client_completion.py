# SPDX-License-Identifier: MIT
"""Completion: what volchainctl computes, and what bash and zsh make of it on a terminal."""
import os
import shutil

import pytest

from harness.ctl import PROGRAM, Ctl, Terminal

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../client"))
PROMPT = "PROMPT> "


@pytest.fixture(scope="module")
def named(world):
    """With objects whose names are hard on shells."""
    ctl = Ctl(world.bus.address)
    for name in ("web server", "webmail", "it's"):
        ctl.ok("vm", "register", name)
    for name in ("a:one", "a:two"):
        ctl.ok("disk", "create", "main", name, "1M")
    return ctl


def test_complete_asks_the_daemon(named):
    assert named.ok("complete", "--", "vm", "show", "web").splitlines() == ["web server", "webmail"]
    assert named.ok("complete", "--", "snapshot", "create", "x", "--disk=a:o") == "--disk=a:one\n"
    [disk] = [d for d in named.json("disk", "list") if d["name"] == "a:one"]
    assert named.ok("complete", "--", "disk", "show", disk["id"][:8]) == disk["id"] + "\n"
    assert set(named.ok("complete", "--", "job", "show", "").split()) == {job["id"] for job in named.json("job", "list")}
    assert named.ok("complete", "--", "volume", "show", "/").splitlines() == sorted(
        volume["path"] for volume in named.json("volume", "list"))
    assert named.ok("complete", "--", "vm", "register", "x", "--config", "") == ":files\n"


def test_complete_is_silent_where_nobody_answers(ctl, directory):
    for silent in ctl, Ctl(f"unix:path={directory}/none"):
        result = silent.run("complete", "--", "vm", "show", "")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert silent.ok("complete", "--", "vm", "sh") == "show\n"


@pytest.fixture
def programs(directory):
    """A PATH with a volchainctl that completes as the real one does, and else shows its arguments in brackets."""
    path = f"{directory}/bin"
    os.mkdir(path)
    with open(f"{path}/volchainctl", "w") as f:
        f.write(f'#!/bin/sh\n[ "$1" = complete ] && exec {PROGRAM} "$@"\nprintf "[%s]" "$@"\necho "=end"\n')
    os.chmod(f"{path}/volchainctl", 0o755)
    return f"{path}:{os.environ['PATH']}"


def bash(ctl, programs):
    environment = {**ctl.environment, "PATH": programs, "PS1": PROMPT}
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], environment, columns=200)
    shell.type(f"bind 'set enable-bracketed-paste off'; PS1='{PROMPT}'; source /usr/share/bash-completion/bash_completion; "
               f"source {SOURCE}/volchainctl.bash; clear\n")
    shell.until("\x1b\\[H[^P]*" + PROMPT)
    return shell


def zsh(ctl, programs, directory):
    functions = f"{directory}/zsh"
    os.mkdir(functions)
    shutil.copy(f"{SOURCE}/volchainctl.zsh", f"{functions}/_volchainctl")
    shell = Terminal(["zsh", "-f", "-i"], {**ctl.environment, "PATH": programs, "HOME": directory, "ZDOTDIR": directory},
                     columns=200)
    shell.type(f"PS1='{PROMPT}'; PS2=; unsetopt zle_bracketed_paste prompt_sp; fpath=({functions} $fpath); autoload -Uz compinit; "
               "compinit -u; clear\n")
    shell.until("\x1b\\[H[^P]*" + PROMPT)
    return shell


@pytest.fixture(params=["bash", "zsh"])
def shell(request, named, programs, directory):
    terminal = bash(named, programs) if request.param == "bash" else zsh(named, programs, directory)
    with terminal:
        yield terminal


LINES = [
    ("vm tr\t", ["vm", "tree"]),
    ("vm show webm\t", ["vm", "show", "webmail"]),
    ("vm show web\\ s\t", ["vm", "show", "web server"]),
    ("vm show it\t", ["vm", "show", "it's"]),
    ("disk show a:o\t", ["disk", "show", "a:one"]),
    ("snapshot create x --disk=a:t\t", ["snapshot", "create", "x", "--disk=a:two"]),
    ("snapshot create x --quies\to\t", ["snapshot", "create", "x", "--quiesce=off"]),
    ("snapshot create x --quiesce re\t", ["snapshot", "create", "x", "--quiesce", "require"]),
    ("--json=pr\tpool sh\t", ["--json=pretty", "pool", "show"]),
]


def test_shells(shell):
    for line, words in LINES:
        shell.type(f"volchainctl {line}\n")
        assert "".join(f"[{word}]" for word in words) + "=end" in shell.until("=end\r\n")


def test_shells_complete_files(shell, directory):
    with open(f"{directory}/web.xml", "w") as f:
        f.write("<domain/>")
    for words in "vm register x --config=", "vm register x --config ", "vm set-config y ":
        shell.type(f"volchainctl {words}{directory}/we\t\n")
        shown = "".join(f"[{word}]" for word in f"{words}{directory}/web.xml".split(" "))
        assert shown + "=end" in shell.until("=end\r\n")
