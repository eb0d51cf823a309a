# SPDX-License-Identifier: MIT
"""volchainctl monitor: what comes, goes and changes, as lines for people and for programs."""
import contextlib
import json
import os
import re
import select
import signal
import time


@contextlib.contextmanager
def monitor(ctl, *words):
    """A monitor that watches already."""
    process = ctl.start("monitor", *words)
    try:
        assert process.stderr.readline() == "Watching; ^C ends it.\n"
        yield Lines(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        process.stdout.close()
        process.stderr.close()
    assert process.returncode == -signal.SIGINT


class Lines:
    def __init__(self, process):
        self.fd, self.buffer = process.stdout.fileno(), b""

    def next(self, end):
        while b"\n" not in self.buffer:
            assert select.select([self.fd], [], [], max(0, end - time.monotonic()))[0], "no line in time"
            data = os.read(self.fd, 65536)
            assert data, "the monitor has ended"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def until(self, predicate, timeout=30):
        """The lines up to the first that is meant."""
        end, seen = time.monotonic() + timeout, []
        while not seen or not predicate(seen[-1]):
            seen.append(self.next(end))
        return seen


def events(lines, predicate):
    return [json.loads(line) for line in lines.until(lambda line: predicate(json.loads(line)))]


def test_lines_for_people(ctl, daemon, directory):
    with monitor(ctl) as lines:
        ctl.ok("pool", "create", "main", directory)
        job = ctl.ok("disk", "create", "main", "data", "1M", "--no-wait").strip()
        seen = lines.until(lambda line: "ended" in line)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in seen)
    seen = [line[20:] for line in seen]
    assert seen[0] == "pool main added" and "disk data added" in seen
    assert f"job {job[:8]} (create-disk) added" in seen and seen[-1] == f"job {job[:8]} (create-disk) ended: succeeded"
    assert any(line.startswith(f"job {job[:8]} (create-disk): ") and "Step " in line for line in seen)


def test_json_lines(ctl, daemon, directory):
    with monitor(ctl, "--json=short") as lines:
        before = time.time_ns() // 1000
        ctl.ok("pool", "create", "main", directory)
        [added] = events(lines, lambda e: e["event"] == "added")
        assert (added["kind"], added["name"]) == ("pool", "main") and added["properties"]["path"] == directory
        assert before <= added["time_usec"] <= time.time_ns() // 1000
        made = ctl.json("disk", "create", "main", "data", "1M")
        finished = events(lines, lambda e: e["event"] == "finished")[-1]
        assert finished["kind"] == "job" and finished["properties"] == {
            "kind": "create-disk", "subject": {"kind": "pool", "id": added["id"], "name": "main"}, "state": "succeeded"}
        ctl.ok("vm", "register", "web")
        ctl.ok("disk", "attach", "data", "web", "vda")
        changed = events(lines, lambda e: e["event"] == "changed" and e["kind"] == "disk" and "vm" in e["properties"])[-1]
        assert changed["id"] == made["disk"]["id"] and changed["properties"]["vm"]["name"] == "web"
        ctl.ok("vm", "unregister", "web")
        removed = events(lines, lambda e: e["event"] == "removed")[-1]
        assert removed["kind"] == "vm" and removed["name"] == "web" and removed["properties"] == {}


def test_daemon_that_comes_and_goes(ctl, daemon, directory):
    ctl.ok("pool", "create", "main", directory)
    with monitor(ctl, "--json=short") as lines:
        daemon.stop()
        [stopped] = events(lines, lambda e: e["event"] == "stopped")
        assert set(stopped) == {"time_usec", "event"}
        daemon.start()
        events(lines, lambda e: e["event"] == "started")
        ctl.ok("pool", "remove", "main")
        removed = events(lines, lambda e: e["event"] == "removed")[-1]
        assert removed["name"] == "main", "what was there before the restart is known"


def test_quiet(ctl, daemon, directory):
    process = ctl.start("-q", "monitor")
    ctl.ok("status")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == ""


def test_bus_that_goes(ctl, daemon, bus):
    process = ctl.start("monitor")
    assert process.stderr.readline() == "Watching; ^C ends it.\n"
    bus.stop()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and "the connection to the message bus was lost" in err
    daemon.process.wait(30)
