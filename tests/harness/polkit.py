# SPDX-License-Identifier: MIT
"""Who answers for polkit on a test's own bus: one that says what it is told to, and polkitd itself."""
import collections
import os
import shutil
import subprocess
import threading

from jeepney import MessageType, message_bus, new_error, new_method_return
from jeepney.io.blocking import Proxy, open_dbus_connection
from jeepney.low_level import HeaderFields

from harness.client import Client

NAME = "org.freedesktop.PolicyKit1"
SYSTEMD = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../systemd"))
POLKITD = "/usr/lib/polkit-1/polkitd"

# subject: the caller's name on the bus; details: a{ss}; flags: 1 where somebody may be asked for a password
Question = collections.namedtuple("Question", "subject action details flags")


def policy(owner):
    return f"""<policy {owner}><allow own="{NAME}"/></policy>
  <policy context="default">
    <allow send_destination="{NAME}"/><allow receive_sender="{NAME}"/>
  </policy>"""


class FakePolkit:
    """`answers`: what to say to each action: yes, no, or challenge (yes, if somebody gave the password). To
    others it says no. `questions`: what was asked, in order."""
    bus_policy = policy('user="root"')

    def __init__(self, _directory):
        self.answers, self.questions = {}, []
        self.ending = False

    def start(self, bus):
        self.connection = open_dbus_connection(bus=bus.address)
        (result,) = Proxy(message_bus, self.connection).RequestName(NAME)
        assert result == 1, result
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def asked(self):
        """The questions since the last time."""
        questions, self.questions = self.questions, []
        return questions

    def _serve(self):
        while not self.ending:
            try:
                message = self.connection.receive(timeout=0.2)
            except TimeoutError:
                continue
            except OSError:
                return
            if message.header.message_type == MessageType.method_call:
                self.connection.send(self._answer(message))

    def _answer(self, message):
        if message.header.fields.get(HeaderFields.member) != "CheckAuthorization":
            return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod")
        (kind, subject), action, details, flags, _cancellation = message.body
        assert kind == "system-bus-name"
        self.questions.append(Question(subject["name"][1], action, details, flags))
        answer = self.answers.get(action, "no")
        return new_method_return(message, "(bba{ss})", ((answer == "yes", answer == "challenge", {}),))

    def stop(self):
        self.ending = True
        self.thread.join(10)
        self.connection.close()


class RealPolkit:
    """polkitd with the project's policy and rules and nothing else, in a mount namespace of its own. To it,
    uid 5 (games) is in the group volchain; uid 2 (bin) is nobody in particular."""
    bus_policy = policy('user="polkitd"')
    member, plain = 5, 2

    def __init__(self, directory):
        self.directory, self.process = directory, None

    def start(self, bus):
        for name in "actions", "rules", "etc":
            os.makedirs(f"{self.directory}/{name}")
        shutil.copy(f"{SYSTEMD}/org.volchain1.policy", f"{self.directory}/actions")
        shutil.copy(f"{SYSTEMD}/volchain.rules", f"{self.directory}/rules/50-volchain.rules")
        with open("/etc/group") as f, open(f"{self.directory}/etc/group", "w") as copy:
            copy.writelines(line for line in f if not line.startswith("volchain:"))
            copy.write("volchain:x:64321:games\n")
        binds = [("actions", "/usr/share/polkit-1/actions"), ("rules", "/etc/polkit-1/rules.d"),
                 ("rules", "/usr/share/polkit-1/rules.d"), ("etc/group", "/etc/group")]
        script = "".join(f"mount --bind '{self.directory}/{mine}' {theirs} && " for mine, theirs in binds)
        watcher = Client(bus.address)
        with watcher.signals(sender="org.freedesktop.DBus", member="NameOwnerChanged") as signals, \
                open(f"{self.directory}/polkitd.log", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", f"{script} exec {POLKITD}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=bus.address))
            signals.until(lambda path, member, body: body[0] == NAME and body[2])
        watcher.close()

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait(20)
