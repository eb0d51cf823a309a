# SPDX-License-Identifier: MIT
"""volchainctl as people and scripts run it: with pipes, or on a terminal."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from harness.daemon import BUILD

PROGRAM = os.path.join(BUILD, "client/volchainctl")


class Ctl:
    """ok(), json() and fails() run one command to its end and say what it printed. Arguments are words of the command
    line, keywords go into the environment. `wrapper`: the words of a command that runs it."""

    def __init__(self, address, program=PROGRAM, wrapper=(), **environment):
        self.argv = [*wrapper, program]
        self.environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=address, LC_ALL="C.UTF-8", TZ="UTC", TERM="xterm",
                                ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:exitcode=99:malloc_context_size=12")
        for name in ("NO_COLOR", "PAGER", "VOLCHAIN_PAGER", "SUDO_UID"):
            self.environment.pop(name, None)
        self.environment.update(environment)

    def run(self, *words, input=None, timeout=60, **environment):
        """The finished process."""
        return subprocess.run([*self.argv, *map(str, words)], input=input, capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL if input is None else None, env={**self.environment, **environment})

    def ok(self, *words, **options):
        """What a command that has to succeed prints."""
        result = self.run(*words, **options)
        assert result.returncode == 0, (words, result.returncode, result.stdout, result.stderr)
        return result.stdout

    def json(self, *words, **options):
        return json.loads(self.ok(*words, "--json=short", **options))

    def fails(self, *words, status=1, **options):
        """What a command that has to fail says; it prints no result."""
        result = self.run(*words, **options)
        assert result.returncode == status, (words, result.returncode, result.stdout, result.stderr)
        assert result.stdout == "", result.stdout
        return result.stderr

    def start(self, *words, interrupt=signal.SIG_DFL, **environment):
        """A process with pipes that goes on. `interrupt`: what SIGINT does to it, whatever it does to the tests."""
        return subprocess.Popen([*self.argv, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env={**self.environment, **environment},
                                preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt))

    def terminal(self, *words, rows=24, columns=80, **environment):
        return Terminal([*self.argv, *map(str, words)], {**self.environment, **environment}, rows, columns)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv, environment, rows=24, columns=80):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment,
                                        start_new_session=True, preexec_fn=self._take)
        os.close(slave)
        self.text, self.open = "", True

    @staticmethod
    def _take():
        """In the new process: the terminal is its own, and ^C is for it."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
        os.close(self.master)

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, pattern, timeout=30):
        """Reads on until a pattern has been printed; everything up to its end, which is not looked at again."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            assert self._read(end), f"{pattern} is not in {self.text!r}"
        before, self.text = self.text[:found.end()], self.text[found.end():]
        return before

    def rest(self, timeout=30):
        """(status, what else was printed) when the program has ended; a status below 0 is a signal."""
        end = time.monotonic() + timeout
        while self._read(end):
            pass
        return self.process.wait(max(0.1, end - time.monotonic())), self.text.replace("\r\n", "\n")

    def _read(self, end):
        """False when there will be no more, or not in time."""
        if not self.open or not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the program has closed it
            data = b""
        self.open = bool(data)
        self.text += data.decode(errors="replace")
        return self.open
