# SPDX-License-Identifier: MIT
"""QMP and the guest agent's protocol over Unix sockets, as the tests speak them: each wait has a limit."""
import base64
import contextlib
import json
import random
import socket
import time


class CommandError(Exception):
    """QEMU or the guest agent said no."""

    def __init__(self, error):
        super().__init__(f"{error.get('class')}: {error.get('desc')}")
        self.description = error.get("desc", "")


class Channel:
    """Lines of JSON in both directions. `timeout`: of each wait, where the call does not say."""

    def __init__(self, connection, timeout=20.0):
        self.socket, self.timeout, self.buffer = connection, timeout, b""

    @classmethod
    def to(cls, path, **options):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return cls(connection, **options)

    def close(self):
        self.socket.close()

    def send(self, message, prefix=b""):
        self.socket.settimeout(self.timeout)
        self.socket.sendall(prefix + json.dumps(message).encode() + b"\n")

    def line(self, timeout=None):
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionError("the other side closed the connection")
            self.buffer += received
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line


def request(command, arguments):
    return {"execute": command, "arguments": arguments} if arguments else {"execute": command}


class QMP(Channel):
    """execute("blockdev-add", driver="qcow2", ...); names with '-' by **{"node-name": "x"}."""

    def __init__(self, connection, **options):
        super().__init__(connection, **options)
        self.events = []
        self.greeting = json.loads(self.line())
        self.execute("qmp_capabilities")

    def _message(self, end):
        message = json.loads(self.line(max(0.0, end - time.monotonic())))
        if "event" in message:
            self.events.append(message)
        return message

    def execute(self, command, timeout=None, **arguments):
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        identity = random.getrandbits(32)
        self.send({**request(command, arguments), "id": identity})
        while True:
            message = self._message(end)
            if message.get("id") != identity:
                continue
            if "error" in message:
                raise CommandError(message["error"])
            return message["return"]

    def event(self, name, timeout=30.0, **match):
        """The next event of this name whose data has these values; it is taken out of `events`."""
        end = time.monotonic() + timeout
        while True:
            for event in self.events:
                if event["event"] == name and match.items() <= event.get("data", {}).items():
                    self.events.remove(event)
                    return event
            self._message(end)


class QGA(Channel):
    """A guest agent. sync() first: another client may have left half an answer behind."""

    def sync(self, timeout=None):
        """Until the agent answers, also one that is started only later."""
        identity = random.getrandbits(31)
        self.send(request("guest-sync-delimited", {"id": identity}), prefix=b"\xff")
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            line = self.line(max(0.0, end - time.monotonic()))
            with contextlib.suppress(ValueError):
                if json.loads(line.rpartition(b"\xff")[2]).get("return") == identity:
                    return

    def execute(self, command, timeout=None, **arguments):
        self.send(request(command, arguments))
        message = json.loads(self.line(timeout))
        if "error" in message:
            raise CommandError(message["error"])
        return message["return"]

    def shell(self, script, timeout=60.0, check=True):
        """The output of a script in the guest, which must succeed. Without `check`: (exit status, output)."""
        started = self.execute("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})
        pid = started["pid"]
        end, pause = time.monotonic() + timeout, 0.002
        while True:
            status = self.execute("guest-exec-status", pid=pid)
            if status["exited"]:
                break
            if time.monotonic() > end:
                raise TimeoutError(f"the guest still runs: {script}")
            time.sleep(pause)  # the agent has no other way to wait for the end of a program
            pause = min(pause * 2, 0.1)
        output, errors = (base64.b64decode(status.get(stream, "")).decode(errors="replace")
                          for stream in ("out-data", "err-data"))
        result = status.get("exitcode", -status.get("signal", 0))
        if not check:
            return result, output + errors
        if result:
            raise RuntimeError(f"in the guest: {script} -> {result}\n{output}{errors}")
        return output
