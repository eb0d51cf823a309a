# SPDX-License-Identifier: MIT
"""A peer in the daemon's place that says just what a test has it say, when it has it said: for what a client does with
answers that the daemon cannot be made to give at a chosen moment."""
from jeepney import DBusAddress, HeaderFields, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.blocking import open_dbus_connection

from harness.client import NAME

JOB = "/org/volchain1/job/64c0ffee_0000_4000_8000_000000000001"
TYPES = {"Kind": "s", "Step": "s", "State": "s", "DoneBytes": "t", "TotalBytes": "t", "FinishedUsec": "t"}


class FakeDaemon:
    def __init__(self, address):
        self.connection = open_dbus_connection(bus=address)
        reply = self.connection.send_and_get_reply(message_bus.RequestName(NAME), timeout=20)
        assert reply.body[0] == 1, "the name has an owner"

    def close(self):
        self.connection.close()

    def next_call(self, timeout=20):
        while True:
            message = self.connection.receive(timeout=timeout)
            if message.header.message_type == MessageType.method_call:
                return message

    def reply(self, call, signature="", *values):
        self.connection.send(new_method_return(call, signature, values))

    def refuse(self, call, name, message):
        self.connection.send(new_error(call, name, "s", (message,)))

    # --- a job ---
    def wait_call(self, at_once=None, **properties):
        """Answers what is asked of the job's properties, and says directly afterwards that they have changed to `at_once`;
        its call of Wait, to be answered later."""
        while True:
            call = self.next_call()
            member = call.header.fields[HeaderFields.member]
            if member == "Wait":
                return call
            assert member == "GetAll", call
            self.reply(call, "a{sv}", typed(properties))
            if at_once:
                self.change(**at_once)

    def change(self, **properties):
        """The job's properties have changed."""
        emitter = DBusAddress(JOB, interface="org.freedesktop.DBus.Properties")
        body = (f"{NAME}.Job", typed(properties), [])
        self.connection.send(new_signal(emitter, "PropertiesChanged", "sa{sv}as", body))

    def end(self, wait_call, state="succeeded", error=("", ""), result=None):
        self.reply(wait_call, "s(ss)a{sv}", state, error, result or {})


def typed(properties):
    return {name: (TYPES[name], value) for name, value in properties.items()}
