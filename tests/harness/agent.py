# SPDX-License-Identifier: MIT
"""A guest agent's double, for what the real one cannot be made to do. It listens where QEMU's chardev would."""
import json
import os
import socket
import threading


class FakeAgent:
    """Answers as qemu-ga does, one client at a time. What it does differently is set by attributes and subclasses."""

    def __init__(self, path, mountpoints=2):
        self.path, self.mountpoints = path, mountpoints
        self.frozen = False
        self.freezes = self.thaws = 0
        self.thaws_by_itself = False  # as Windows does after ten seconds: nothing is frozen any more at the thaw
        self.commands = []
        if os.path.exists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(4)
        self._connection = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        """As when QEMU ends: the socket is gone."""
        if self._listener.fileno() < 0:
            return
        if os.path.exists(self.path):
            os.unlink(self.path)
        for end in (self._listener, self._connection):
            if end is not None:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self._thread.join(20)
        self._listener.close()

    # --- what may be done differently ---
    def execute(self, command, arguments):
        """What is returned. An exception is answered as an error."""
        handler = getattr(self, "on_" + command.replace("-", "_"), None)
        if handler is None:
            raise ValueError(f"the command {command} has not been found")
        return handler(arguments)

    def on_guest_sync_delimited(self, arguments):
        return arguments["id"]

    def on_guest_ping(self, _):
        return {}

    def on_guest_info(self, _):
        names = [name[3:].replace("_", "-") for name in dir(self) if name.startswith("on_guest")]
        return {"version": "7.2.0", "supported_commands": [
            {"name": name, "enabled": True, "success-response": True} for name in names]}

    def on_guest_fsfreeze_status(self, _):
        return "frozen" if self.frozen else "thawed"

    def on_guest_fsfreeze_freeze(self, _):
        self.freezes += 1
        self.frozen = not self.thaws_by_itself
        return self.mountpoints

    def on_guest_fsfreeze_thaw(self, _):
        self.thaws += 1
        thawed = self.mountpoints if self.frozen else 0
        self.frozen = False
        return thawed

    def answer(self, message):
        """The bytes that are sent for a request."""
        try:
            reply = {"return": self.execute(message["execute"], message.get("arguments", {}))}
        except Exception as error:  # whatever it is: the client is told
            reply = {"error": {"class": "GenericError", "desc": str(error)}}
        if "id" in message:
            reply["id"] = message["id"]
        prefix = b"\xff" if message["execute"] == "guest-sync-delimited" else b""
        return prefix + json.dumps(reply).encode() + b"\n"

    # --- the line ---
    def _serve(self):
        while True:
            try:
                self._connection, _ = self._listener.accept()
            except OSError:
                return
            with self._connection:
                self._talk(self._connection)

    def _talk(self, connection):
        buffer = b""
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                line = line.rsplit(b"\xff", 1)[-1]
                if not line.strip():
                    continue
                message = json.loads(line)
                self.commands.append(message["execute"])
                try:
                    connection.sendall(self.answer(message))
                except OSError:
                    return
