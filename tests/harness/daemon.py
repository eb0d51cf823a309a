# SPDX-License-Identifier: MIT
"""volchaind in surroundings of its own."""
import os
import select
import signal
import socket
import subprocess
import time

BUILD = os.environ.get("VOLCHAIN_BUILD", os.path.join(os.path.dirname(__file__), "../../build/gcc"))

# How many calls a report of the sanitizers names of how memory was allocated: a deep stack costs a tenth of the daemon's time.
ALLOCATION_STACK = int(os.environ.get("VOLCHAIN_ALLOCATION_STACK", "3"))


class Daemon:
    """Started by start(), which returns when it is ready. Everything it has is below `directory`."""

    def __init__(self, directory, bus, config="", verbose=True, wrapper=()):
        self.directory, self.bus, self.process, self.wrapper = str(directory), bus, None, list(wrapper)
        self.verbose = verbose
        self.failpoints = os.path.join(self.directory, "failpoints")
        for name in ("state", "run", "etc", "failpoints"):
            os.makedirs(os.path.join(self.directory, name), exist_ok=True)
        if config:
            with open(os.path.join(self.directory, "etc/volchain.toml"), "w") as f:
                f.write(config)
        self.log_path = os.path.join(self.directory, "volchaind.log")
        self.ready_after = None

    def start(self, wait=True, timeout=60):
        notify_path = os.path.join(self.directory, "notify")
        if os.path.exists(notify_path):
            os.unlink(notify_path)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(notify_path)
        environment = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS=self.bus.address, NOTIFY_SOCKET=notify_path,
                           STATE_DIRECTORY=self.directory + "/state", RUNTIME_DIRECTORY=self.directory + "/run",
                           CONFIGURATION_DIRECTORY=self.directory + "/etc", VOLCHAIN_FAILPOINTS=self.failpoints,
                           ASAN_OPTIONS=f"detect_leaks=1:abort_on_error=0:exitcode=99:malloc_context_size={ALLOCATION_STACK}",
                           UBSAN_OPTIONS="print_stacktrace=1")
        started = time.monotonic()
        self.log = open(self.log_path, "ab")
        program = [os.path.join(BUILD, "daemon/volchaind")] + (["-v"] if self.verbose else [])
        self.process = subprocess.Popen(self.wrapper + program, env=environment, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)
        if wait:
            self.wait_ready(timeout)
            self.ready_after = time.monotonic() - started
        return self

    def wait_ready(self, timeout=60):
        end = time.monotonic() + timeout
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                readable, _, _ = select.select([self.notify, pidfd], [], [], max(0, end - time.monotonic()))
                if self.notify in readable and b"READY=1" in self.notify.recv(4096):
                    return
                if pidfd in readable:
                    raise RuntimeError(f"volchaind ended with {self.process.wait()} before it was ready:\n{self.text()[-4000:]}")
                if not readable:
                    raise TimeoutError("volchaind is not ready:\n" + self.text()[-4000:])
        finally:
            os.close(pidfd)

    def stop(self, timeout=60):
        """SIGTERM; it has to end in order, without a word from the sanitizers."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        status = self.process.wait(timeout)
        self._closed()
        assert status == 0, f"volchaind ended with {status}:\n{self.text()[-4000:]}"

    def kill(self):
        self.process.kill()
        self.process.wait(20)
        self._closed()

    def wait_killed(self, timeout=60):
        """Until it has ended by a SIGKILL, as a failpoint sends it."""
        status = self.process.wait(timeout)
        self._closed()
        assert status == -signal.SIGKILL, f"volchaind ended with {status}:\n{self.text()[-4000:]}"

    def wait_stopped(self, timeout=60):
        """Until a failpoint has stopped it (SIGSTOP)."""
        end = time.monotonic() + timeout
        while True:
            # waitid() has no limit of its own, and a stop makes no pidfd readable.
            result = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is not None:
                assert result.si_code == os.CLD_STOPPED, f"volchaind ended:\n{self.text()[-4000:]}"
                os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
                return
            assert time.monotonic() < end, "volchaind was not stopped"
            time.sleep(0.005)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def _closed(self):
        self.notify.close()
        self.log.close()

    # --- failpoints ---
    def at(self, name, order="kill"):
        """Obeys `order` the next time the failpoint is passed (lib/base/failpoint.h)."""
        with open(os.path.join(self.failpoints, name), "w") as f:
            f.write(order)

    def forget_failpoints(self):
        for name in os.listdir(self.failpoints):
            os.unlink(os.path.join(self.failpoints, name))

    def passed(self):
        """The failpoints that were passed, in order."""
        try:
            with open(os.path.join(self.failpoints, "passed")) as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def text(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()
