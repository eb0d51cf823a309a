# SPDX-License-Identifier: MIT
"""What a client knows that listed all objects once and has only listened since."""
import collections
import time

from jeepney import MatchRule, message_bus
from jeepney.io.blocking import Proxy
from jeepney.low_level import HeaderFields

from harness import interfaces
from harness.client import ROOT, Client

Heard = collections.namedtuple("Heard", "path member body")


class Mirror:
    """`heard`: all signals, in order. `complaints`: what a signal said that cannot be, or need not be
    said."""

    def __init__(self, address):
        self.client = Client(address)
        rule = MatchRule(type="signal", path_namespace=ROOT)
        Proxy(message_bus, self.client.connection).AddMatch(rule)
        self.queue = collections.deque()
        self._filter = self.client.connection.filter(rule, queue=self.queue)
        self.heard, self.complaints = [], []
        self.objects = self.client.objects()
        self.queue.clear()
        self.declared = interfaces.declared()

    def close(self):
        self._filter.close()
        self.client.close()

    def hear(self):
        """All that the daemon has said until now: what it answers comes after it."""
        self.client.call(ROOT, "org.freedesktop.DBus.Peer", "Ping")
        while self.queue:
            message = self.queue.popleft()
            fields = message.header.fields
            heard = Heard(fields[HeaderFields.path], fields[HeaderFields.member], message.body)
            self.heard.append(heard)
            getattr(self, f"_on_{heard.member}")(heard.path, *heard.body)

    def hear_until(self, predicate, timeout=30):
        """Until something heard from now on fulfils it."""
        end, seen = time.monotonic() + timeout, len(self.heard)
        while True:
            self.hear()
            for heard in self.heard[seen:]:
                if predicate(heard):
                    return heard
            seen = len(self.heard)
            if not self.queue:
                self.client.connection.recv_messages(timeout=max(0.001, end - time.monotonic()))

    def compare(self, timeout=10):
        """Differences between what signals said and what is, when nothing is on the way: {} if all is
        well."""
        end = time.monotonic() + timeout
        while True:
            self.hear()
            real = self.client.objects()  # a change may just be waiting for the end of the daemon's turn
            self.hear()
            differences = self._differences(real)
            if not differences or time.monotonic() > end:
                return differences

    def _differences(self, real):
        found = {path: "is not shown" for path in self.objects.keys() - real.keys()}
        found |= {path: "was not told of" for path in real.keys() - self.objects.keys()}
        for path in real.keys() & self.objects.keys():
            for name, properties in real[path].items():
                known = self.objects[path].get(name, {})
                for member, value in properties.items():
                    if self.emits(name, member) != "false" and known.get(member) != value:
                        found[f"{path} {name}.{member}"] = f"is {value}, told was {known.get(member)}"
        return found

    def emits(self, interface, member):
        annotations = self.declared[interface].properties[member].annotations
        return annotations.get("org.freedesktop.DBus.Property.EmitsChangedSignal", "true")

    def _on_InterfacesAdded(self, path, object_path, added):
        if path != ROOT or object_path in self.objects:
            self.complaints.append(f"{object_path} was added although it was there")
        self.objects[object_path] = {name: {p: v for p, (_, v) in properties.items()}
                                     for name, properties in added.items()}

    def _on_InterfacesRemoved(self, path, object_path, names):
        if path != ROOT or set(self.objects.pop(object_path, {})) != set(names):
            self.complaints.append(f"{object_path} was removed: it was not there, or had other interfaces")

    def _on_PropertiesChanged(self, path, interface, changed, invalidated):
        known = self.objects.get(path, {}).get(interface)
        if known is None or invalidated:
            self.complaints.append(f"{interface} of {path} changed: unknown, or invalidated: {invalidated}")
            return
        for member, (_, value) in changed.items():
            if self.emits(interface, member) != "true":
                self.complaints.append(
                    f"{interface}.{member} was signalled, and is declared {self.emits(interface, member)}")
            if known.get(member) == value:
                self.complaints.append(f"{interface}.{member} of {path} was signalled, and is still {value}")
            known[member] = value

    def _on_JobFinished(self, path, job, kind, subject, state):
        known = self.objects.get(job, {}).get("org.volchain1.Job", {})
        if (known.get("State"), known.get("Kind"), known.get("Subject")) != (state, kind, subject):
            self.complaints.append(f"JobFinished says {state}, {kind}, {subject}; told before was {known}")
