# SPDX-License-Identifier: MIT
"""A D-Bus client that sends exactly what it is told, right or wrong, and waits with a limit."""
import contextlib
import os
import time

from jeepney import DBusAddress, MatchRule, MessageFlag, Properties, message_bus, new_method_call
from jeepney.bus_messages import MatchRule as _MatchRule  # noqa: F401  (older jeepney keeps it here)
from jeepney.io.blocking import Proxy, open_dbus_connection
from jeepney.low_level import HeaderFields, MessageType

NAME = "org.volchain1"
ROOT = "/org/volchain1"


class DBusError(Exception):
    def __init__(self, name, message):
        super().__init__(f"{name}: {message}")
        self.name, self.message = name, message

    @property
    def short(self):
        return self.name.removeprefix("org.volchain1.Error.")


@contextlib.contextmanager
def effective_user(uid):
    """As another user, as far as a server sees it at connect(). None: as who we are."""
    if uid is not None:
        os.seteuid(uid)
    try:
        yield
    finally:
        if uid is not None:
            os.seteuid(os.getuid())


class Client:
    """`uid`: who it is on the bus, where that is not the user of the test."""

    def __init__(self, address, timeout=60, uid=None):
        self.timeout = timeout
        with effective_user(uid):
            self.connection = open_dbus_connection(bus=address, enable_fds=True)
        self._early = {}  # answers that came before they were asked for
        self.unique_name = self.connection.unique_name

    def close(self):
        self.connection.close()

    # --- calls ---
    def call(self, path, interface, member, signature=None, *args, timeout=None, interactive=False):
        """The results as a tuple; one result as it is, none as None. `interactive`: somebody may be asked for a
        password meanwhile."""
        return self.answer(self.send(path, interface, member, signature, *args, interactive=interactive), timeout)

    def send(self, path, interface, member, signature=None, *args, interactive=False):
        """A call whose answer is taken later, with answer()."""
        if not interface.startswith("org."):
            interface = f"{NAME}.{interface}"
        address = DBusAddress(path, bus_name=NAME, interface=interface)
        message = new_method_call(address, member, signature, args)
        if interactive:
            message.header.flags |= MessageFlag.allow_interactive_authorization
        serial = next(self.connection.outgoing_serial)
        self.connection.send_message(message, serial=serial)
        return serial

    def answer(self, serial, timeout=None):
        """As call(). Answers to other calls that come before it are kept for their turn."""
        reply = self._reply_to(serial, timeout or self.timeout)
        if reply.header.message_type == MessageType.error:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise DBusError(reply.header.fields[HeaderFields.error_name], text)
        return reply.body[0] if len(reply.body) == 1 else (reply.body or None)

    def _reply_to(self, serial, timeout):
        if serial in self._early:
            return self._early.pop(serial)
        end = time.monotonic() + timeout
        while True:
            message = self.connection.receive(timeout=max(0, end - time.monotonic()))
            reply_to = message.header.fields.get(HeaderFields.reply_serial, -1)
            if reply_to == serial:
                return message
            if reply_to != -1:
                self._early[reply_to] = message
                continue
            for filter_ in self.connection._filters.matches(message):
                filter_.queue.append(message)

    def get(self, path, interface, name):
        if not interface.startswith("org."):
            interface = f"{NAME}.{interface}"
        return self.call(path, "org.freedesktop.DBus.Properties", "Get", "ss", interface, name)[1]

    def get_all(self, path, interface):
        if not interface.startswith("org."):
            interface = f"{NAME}.{interface}"
        values = self.call(path, "org.freedesktop.DBus.Properties", "GetAll", "s", interface)
        return {name: value for name, (_, value) in values.items()}

    def objects(self):
        """Everything: {path: {interface: {property: value}}}, only our interfaces."""
        found = self.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
        return {path: {name: {p: v for p, (_, v) in props.items()} for name, props in interfaces.items()
                       if name.startswith(NAME + ".")} for path, interfaces in found.items()}

    def of_kind(self, kind):
        """{path: properties} of all objects of a kind ("disk", "vm" ...)."""
        name = f"{NAME}.{'VM' if kind == 'vm' else kind.capitalize()}"
        return {path: ifaces[name] for path, ifaces in self.objects().items() if name in ifaces}

    def introspect(self, path):
        return self.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")

    # --- jobs ---
    def wait(self, job, timeout=120):
        """(state, error name without prefix, message, result)"""
        state, (name, message), result = self.call(job, "Job", "Wait", timeout=timeout)
        return state, name.removeprefix("org.volchain1.Error."), message, {k: v for k, (_, v) in result.items()}

    def finish(self, job, timeout=120):
        """The result of a job that has to succeed."""
        state, name, message, result = self.wait(job, timeout)
        assert state == "succeeded", f"job {state}: {name}: {message}"
        return result

    def failure(self, job, timeout=120):
        """(error, message) of a job that has to fail."""
        state, name, message, result = self.wait(job, timeout)
        assert state in ("failed", "cancelled"), f"job {state}: {result}"
        return name, message

    # --- shortcuts ---
    def create_pool(self, name, path, **options):
        return self.call(ROOT, "Manager", "CreatePool", "ssa{sv}", name, str(path), variants(options))

    def register_vm(self, name, **options):
        return self.call(ROOT, "Manager", "RegisterVM", "sa{sv}", name, variants(options))

    def find(self, kind, what):
        return self.call(ROOT, "Manager", "Find", "ss", kind, what)

    def create_snapshot(self, vm, name="", **options):
        return self.call(vm, "VM", "CreateSnapshot", "sa{sv}", name, variants(options))

    def create_schedule(self, vm, name, calendar, **options):
        return self.call(ROOT, "Manager", "CreateSchedule", "sosa{sv}", name, vm, calendar, variants(options))

    # --- signals ---
    def wait_property(self, path, interface, name, value, timeout=30):
        """Until a property has this value."""
        end = time.monotonic() + timeout
        with self.signals(path=path, member="PropertiesChanged") as changes:
            while (found := self.get(path, interface, name)) != value:
                assert time.monotonic() < end, f"{name} of {path} is {found}, not {value}"
                with contextlib.suppress(TimeoutError):
                    changes.next(max(0.001, end - time.monotonic()))

    def wait_copied(self, job, timeout=30):
        """Until a job has copied something: its step is begun before its images are open."""
        end = time.monotonic() + timeout
        with self.signals(path=job, member="PropertiesChanged") as changes:
            while self.get(job, "Job", "DoneBytes") == 0:
                changes.next(max(0.001, end - time.monotonic()))

    @contextlib.contextmanager
    def signals(self, **rule):
        """Collects the signals that match: with c.signals(member="JobFinished") as s: ...; s.next()"""
        match = MatchRule(type="signal", **rule)
        Proxy(message_bus, self.connection).AddMatch(match)
        with self.connection.filter(match, bufsize=1000) as queue:
            yield Signals(self, queue)
        Proxy(message_bus, self.connection).RemoveMatch(match)


class Signals:
    def __init__(self, client, queue):
        self.client, self.queue = client, queue

    def next(self, timeout=30):
        """(path, member, body) of the next one."""
        message = self.client.connection.recv_until_filtered(self.queue, timeout=timeout)
        fields = message.header.fields
        return fields[HeaderFields.path], fields[HeaderFields.member], message.body

    def until(self, predicate, timeout=30):
        end = time.monotonic() + timeout
        while True:
            signal = self.next(max(0.001, end - time.monotonic()))
            if predicate(*signal):
                return signal


SIGNATURES = {bool: "b", int: "t", str: "s", bytes: "ay"}


class Variant(tuple):
    """(signature, value), for types that Python cannot tell."""
    def __new__(cls, signature, value):
        return super().__new__(cls, (signature, value))


def variants(options):
    """a{sv} of keyword arguments; '_' in names stands for '-'. Lists are lists of object paths."""
    result = {}
    for name, value in options.items():
        if value is None:
            continue
        if not isinstance(value, Variant):
            value = ("ao", value) if isinstance(value, list) else (SIGNATURES[type(value)], value)
        result[name.replace("_", "-")] = tuple(value)
    return result


__all__ = ["Client", "DBusError", "NAME", "ROOT", "Properties", "Variant", "variants"]
