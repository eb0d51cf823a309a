# SPDX-License-Identifier: MIT
"""Stands between the daemon and sockets that it talks to, hands on what comes, and notes what and when."""
import functools
import json
import os
import selectors
import socket
import threading
import time
from dataclasses import dataclass


@dataclass
class Message:
    time: float  # from the daemon: when it was read here; to the daemon: when it was handed on
    channel: str
    to_daemon: bool
    content: dict

    @property
    def command(self):
        return None if self.to_daemon else self.content.get("execute")


class Tap:
    """paths: {name: socket that is there}. The daemon gets tap.path(name). All in one thread: the order of
    `messages` is the order of things."""

    def __init__(self, directory, paths):
        self.directory, self.targets, self.messages = directory, dict(paths), []
        os.makedirs(directory, exist_ok=True)
        self._selector, self._parts = selectors.DefaultSelector(), {}
        self._stop, self._stopped = socket.socketpair()
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        for name in self.targets:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path(name))
            listener.listen(1)
            accept = functools.partial(self._accept, listener, name)
            self._selector.register(listener, selectors.EVENT_READ, accept)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def path(self, name):
        return os.path.join(self.directory, f"{name}.tap")

    def close(self):
        self._stop.close()
        self._thread.join(20)
        assert not self._thread.is_alive()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _run(self):
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self, listener, name):
        daemon, _ = listener.accept()
        target = socket.socket(socket.AF_UNIX)
        target.connect(self.targets[name])
        for source, sink, to_daemon in ((daemon, target, False), (target, daemon, True)):
            hand_on = functools.partial(self._hand_on, source, sink, name, to_daemon)
            self._selector.register(source, selectors.EVENT_READ, hand_on)

    def _hand_on(self, source, sink, name, to_daemon):
        try:
            data = source.recv(65536)
            read = time.monotonic()
            if data:
                sink.sendall(data)
                return self._note(data, name, to_daemon, time.monotonic() if to_daemon else read)
        except OSError:
            pass
        for end in (source, sink):
            self._selector.unregister(end)
            end.close()

    def _note(self, data, name, to_daemon, when):
        *lines, rest = (self._parts.pop((name, to_daemon), b"") + data).split(b"\n")
        self._parts[name, to_daemon] = rest
        for line in lines:
            line = line.rpartition(b"\xff")[2].strip()
            if line:
                self.messages.append(Message(when, name, to_daemon, json.loads(line)))


def window(messages):
    """What passed between the answer to the freeze and the thaw: (the answer, messages between, the thaw)."""
    freeze = next(i for i, m in enumerate(messages) if m.command == "guest-fsfreeze-freeze")
    answered = next(i for i, m in enumerate(messages) if i > freeze and m.channel == "agent" and m.to_daemon)
    thaw = next(i for i, m in enumerate(messages) if m.command == "guest-fsfreeze-thaw")
    assert answered < thaw
    return messages[answered], messages[answered + 1:thaw], messages[thaw]


def check_window(messages, disks):
    """One command, the transaction of all disks; nothing else goes anywhere. The daemon's own share of it in
    seconds: from the freeze's answer to the transaction, and from its answer to the thaw."""
    frozen, between, thaw = window(messages)
    sent = [m for m in between if not m.to_daemon]
    assert [(m.channel, m.command) for m in sent] == [("qmp", "transaction")], sent
    actions = [action["type"] for action in sent[0].content["arguments"]["actions"]]
    assert actions == ["blockdev-snapshot"] * disks, actions
    [answer] = [m for m in between if m.to_daemon and m.content.get("id") == sent[0].content["id"]]
    assert "return" in answer.content
    others = [m.content for m in between if m.to_daemon and m is not answer and "event" not in m.content]
    assert not others, others
    return (sent[0].time - frozen.time) + (thaw.time - answer.time)
