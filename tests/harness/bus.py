# SPDX-License-Identifier: MIT
"""A message bus of the test's own, with the policy of a real system bus."""
import os
import select
import subprocess

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{policy}</include>
  {more}
</busconfig>
"""

POLICY = os.path.join(os.path.dirname(__file__), "../../systemd/org.volchain1.conf")


class Bus:
    """dbus-daemon with the project's own policy file. `more`: further elements of the configuration."""

    def __init__(self, directory, more=""):
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o755)
        self.socket = os.path.join(directory, "bus")
        config = os.path.join(directory, "bus.conf")
        with open(config, "w") as f:
            f.write(CONFIG.format(socket=self.socket, policy=os.path.abspath(POLICY), more=more))
        read, write = os.pipe()
        with open(os.path.join(directory, "bus.log"), "wb") as log:
            self.process = subprocess.Popen(
                ["dbus-daemon", f"--config-file={config}", "--nofork", f"--print-address={write}"],
                pass_fds=[write], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        os.close(write)
        ready, _, _ = select.select([read], [], [], 20)
        address = os.read(read, 4096).decode() if ready else ""
        os.close(read)
        if not address:
            raise RuntimeError("dbus-daemon did not start: " + open(log.name).read())
        self.address = f"unix:path={self.socket}"

    def stop(self):
        self.process.kill()
        self.process.wait(20)
