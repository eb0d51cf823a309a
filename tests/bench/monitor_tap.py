# SPDX-License-Identifier: MIT
"""Stands between the daemon and a QEMU's monitor and notes when a command came and when its answer went back:
the witness for what QEMU takes of the time that a guest is frozen.
"""
import json
import os
import socket
import threading
import time


class MonitorTap:
    """Listens at `path` for one client at a time, and connects to `monitor` for it. Times are as in
    instant_agent.py."""

    def __init__(self, path, monitor):
        self.path, self.monitor = path, monitor
        self.commands, self.answers, self.names = [], [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        self.listener.close()
        os.unlink(self.path)

    def exchanges(self, since, until):
        """[(when the command came, when its answer went)] of the commands that came in that time."""
        pairs = zip(self.commands, self.answers)
        return [pair for pair in pairs if since <= pair[0] <= until]

    def named_exchanges(self, since, until):
        """The same with the commands' names before them."""
        found = zip(self.names, self.commands, self.answers)
        return [exchange for exchange in found if since <= exchange[1] <= until]

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.monitor)
            answers = (server, client, self.answers, {"return", "error"})
            back = threading.Thread(target=self._pass, args=answers, daemon=True)
            back.start()
            self._pass(client, server, self.commands, {"execute"})
            server.shutdown(socket.SHUT_RDWR)
            back.join()
            server.close()
            client.close()

    def _pass(self, source, target, times, members):
        """Notes when a message with one of the members had come, and passes it on."""
        rest = b""
        while True:
            try:
                received = source.recv(65536)
            except OSError:
                received = b""
            if not received:
                return
            now = time.time()
            target.sendall(received)
            *lines, rest = (rest + received).split(b"\n")
            messages = [message for line in lines if members & (message := json.loads(line)).keys()]
            self.names.extend(message["execute"] for message in messages if "execute" in message)
            times.extend(now for _ in messages)
