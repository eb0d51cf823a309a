# SPDX-License-Identifier: MIT
"""A guest agent without a guest, which answers at once and notes when: the witness for the time that a guest
is frozen."""
import json
import os
import socket
import threading
import time


class InstantAgent:
    """Listens at `path` from the start. Times are of the wall clock, as QEMU's traces have it."""

    FILE_SYSTEMS = 2

    def __init__(self, path):
        if os.path.exists(path):
            os.unlink(path)
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.frozen, self.thawed = [], []  # when a freeze was answered, when a thaw had come
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self.listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    self._answer(connection, json.loads(line.replace(b"\xff", b"")))

    def _answer(self, connection, command):
        name = command["execute"]
        if name == "guest-fsfreeze-thaw":
            self.thawed.append(time.time())
        answers = {"guest-fsfreeze-freeze": self.FILE_SYSTEMS, "guest-fsfreeze-thaw": self.FILE_SYSTEMS,
                   "guest-get-osinfo": {"id": "none"}}
        prefix = b""
        if name == "guest-sync-delimited":
            prefix, answer = b"\xff", {"return": command["arguments"]["id"]}
        elif name in answers:
            answer = {"return": answers[name]}
        else:
            answer = {"error": {"class": "CommandNotFound", "desc": name}}
        reply = prefix + json.dumps(answer).encode() + b"\n"
        if name == "guest-fsfreeze-freeze":
            self.frozen.append(time.time())
        connection.sendall(reply)
