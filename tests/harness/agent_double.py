# SPDX-License-Identifier: MIT
"""A guest agent in Python that does what a real one cannot be made to do. It is both the agent and QEMU's end
of its port: one client at a time, and what an agent says late is heard by whoever is connected then."""
import contextlib
import json
import os
import queue
import socket
import threading


def answer(value):
    """Reactions: what a double does instead of what is right. Each is used once, unless given to always()."""
    return lambda double, request: double.reply({"return": value})


def refuse(description, error_class="GenericError"):
    return lambda double, request: double.reply({"error": {"class": error_class, "desc": description}})


def silence(double, request):
    """No answer, now or later."""


def raw(data):
    return lambda double, request: double.write(data)


def hang_up(double, request):
    double.disconnect()


def then(*reactions):
    def all_of_them(double, request):
        for reaction in reactions:
            reaction(double, request)
    return all_of_them


def properly(double, request):
    """What is right."""
    double.obey(request)


def when(event):
    """Nothing, this and what is asked later, before the test sets the event."""
    return lambda double, request: event.wait(60)


class AgentDouble:
    def __init__(self, path, file_systems=1):
        self.path, self.file_systems, self.frozen = path, file_systems, False
        self.asked = []  # the commands, in order
        self.changed = threading.Condition()
        self._reactions, self._always, self._lines = {}, {}, queue.Queue()
        self.open()

    def open(self):
        self._client = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._work)]
        for thread in self._threads:
            thread.start()

    def close(self):
        """Ends it; what waits for an event must have been released."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self.disconnect()
        self._lines.put(None)
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        self._listener.close()
        os.unlink(self.path)

    # --- what it is to do ---
    def once(self, command, *reactions):
        """To the next calls of a command."""
        self._reactions.setdefault(command, []).extend(reactions)

    def always(self, command, reaction):
        self._always[command] = reaction

    def wait_asked(self, command, count=1, timeout=20):
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked.count(command) >= count, timeout), self.asked

    def wait_thawed(self, timeout=20):
        """Until it has been thawed after a freeze."""
        with self.changed:
            thawed = self.changed.wait_for(
                lambda: not self.frozen and "guest-fsfreeze-thaw" in self.asked, timeout)
            assert thawed, self.asked

    # --- what it does ---
    def write(self, data):
        client = self._client
        if client:
            with contextlib.suppress(OSError):
                client.sendall(data)

    def reply(self, message):
        self.write(json.dumps(message).encode() + b"\n")

    def disconnect(self):
        client = self._client
        if client:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def obey(self, request):
        command = request["execute"]
        if command == "guest-sync-delimited":
            self.write(b"\xff" + json.dumps({"return": request["arguments"]["id"]}).encode() + b"\n")
        elif command == "guest-get-osinfo":
            self.reply({"return": {"id": "debian"}})
        elif command == "guest-fsfreeze-status":
            self.reply({"return": "frozen" if self.frozen else "thawed"})
        elif command == "guest-fsfreeze-freeze":
            self._freeze(True)
            self.reply({"return": self.file_systems})
        elif command == "guest-fsfreeze-thaw":
            thawed = self.file_systems if self.frozen else 0
            self._freeze(False)
            self.reply({"return": thawed})
        else:
            refuse(f"The command {command} has not been found", "CommandNotFound")(self, request)

    def freeze_silently(self):
        self._freeze(True)

    def thaw_by_itself(self):
        self._freeze(False)

    def _freeze(self, frozen):
        with self.changed:
            self.frozen = frozen
            self.changed.notify_all()

    def _serve(self):
        """The port: bytes in, lines to the agent."""
        while True:
            try:
                self._client, _ = self._listener.accept()
            except OSError:
                return
            with self._client as client, contextlib.suppress(OSError):
                for line in client.makefile("rb"):
                    self._lines.put(line.rpartition(b"\xff")[2])

    def _work(self):
        """The agent: one command after the other."""
        while (line := self._lines.get()) is not None:
            request = json.loads(line)
            command = request["execute"]
            with self.changed:
                self.asked.append(command)
                self.changed.notify_all()
            waiting = self._reactions.get(command)
            reaction = waiting.pop(0) if waiting else self._always.get(command, properly)
            reaction(self, request)
