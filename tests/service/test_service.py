# SPDX-License-Identifier: MIT
"""The installed service in a real systemd. Runs inside the system that `run` boots, as root; the checks build
on each other, in the order in which they stand here.

Not looked at, as no container without controllers enforces it: IPAddressDeny=, DevicePolicy=, limits of
memory and tasks.
"""
import contextlib
import grp
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from harness import images  # noqa: E402
from harness.client import NAME, ROOT, Client, DBusError  # noqa: E402
from harness.qemu import Qemu  # noqa: E402

UNIT = "volchain.service"
BUS = "unix:path=/run/dbus/system_bus_socket"
DROP_INS = f"/run/systemd/system/{UNIT}.d"
VMS = "/srv/vms"
MiB = 1 << 20
FULL = {"preallocation": ("s", "full")}  # options of a CreateDisk that takes its time
# What `systemd-analyze security` may say at most, in tenths (of 10.0: a service without any protection). It
# counts every protection that there is; those that are not set have their reasons in the unit.
MAX_EXPOSURE = 26


def run(*argv, check=True, **options):
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
                            **options)
    assert not check or result.returncode == 0, f"{' '.join(argv)} -> {result.returncode}\n{result.stdout}"
    return result.stdout


def show(name):
    return run("systemctl", "show", "-P", name, UNIT).strip()


def main_pid():
    return int(show("MainPID"))


def journal(*matches):
    run("journalctl", "--sync")
    lines = run("journalctl", "-o", "json", "--no-pager", *(matches or (f"_SYSTEMD_UNIT={UNIT}",)))
    return [json.loads(line) for line in lines.splitlines()]


def drop_in(name, text):
    os.makedirs(DROP_INS, exist_ok=True)
    with open(f"{DROP_INS}/{name}.conf", "w") as f:
        f.write(text)
    run("systemctl", "daemon-reload")


def without_drop_in(name):
    os.unlink(f"{DROP_INS}/{name}.conf")
    run("systemctl", "daemon-reload")


def restart():
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "restart", UNIT)


def children():
    """The helpers of the daemon, by pid: their /proc/PID/status."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/status") as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            if status["PPid"] == str(main_pid()):
                found[int(pid)] = status
    return found


def wait_for(what, predicate, limit=20):
    """What no event tells of: states of processes."""
    end = time.monotonic() + limit
    while True:
        if value := predicate():
            return value
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.002)


@contextlib.contextmanager
def new_owner(client):
    """Ends when another process owns the bus name than at the beginning: when the service is up again."""
    with client.signals(sender="org.freedesktop.DBus", interface="org.freedesktop.DBus",
                        member="NameOwnerChanged") as signals:
        yield
        signals.until(lambda path, member, body: body[0] == NAME and body[2])


def wait_running(client, vm):
    with client.signals(path=vm, member="PropertiesChanged") as signals:
        if client.get(vm, "VM", "State") != "running":
            signals.until(lambda path, member, body: body[1].get("State", (None, None))[1] == "running")


def disks_of(client, vm):
    return {disk["Target"]: disk for disk in client.of_kind("disk").values() if disk["VM"] == vm}


@pytest.fixture(scope="module")
def root():
    client = Client(BUS)
    yield client
    client.close()


@pytest.fixture(scope="module")
def plain():
    client = Client(BUS, uid=pwd.getpwnam("plain").pw_uid)
    yield client
    client.close()


@pytest.fixture(scope="module")
def member():
    client = Client(BUS, uid=pwd.getpwnam("member").pw_uid)
    yield client
    client.close()


@pytest.fixture(scope="module")
def owner():
    return pwd.getpwnam("vmowner")


@pytest.fixture(scope="module")
def vms(owner):
    """Where somebody else keeps images, and lets nobody in."""
    os.mkdir(VMS, 0o700)
    os.chown(VMS, owner.pw_uid, owner.pw_gid)
    return VMS


def make_image(path, owner, size="64M", **options):
    images.create(path, size, **options)
    images.write(path, 0x5a, 0, MiB)
    os.chown(path, owner.pw_uid, owner.pw_gid)
    os.chmod(path, 0o640)
    return path


@pytest.fixture(scope="module")
def qemu(vms, owner):
    """A running VM of that somebody, with two disks, one of them with a persistent bitmap."""
    disks = [make_image(f"{vms}/root.qcow2", owner), make_image(f"{vms}/data.qcow2", owner)]
    images.run("qemu-img", "bitmap", "--add", disks[1], "backup0")
    qemu = Qemu(f"{vms}/run", disks, running=True, user=owner.pw_uid).start()
    yield qemu
    qemu.kill()


@pytest.fixture(scope="module")
def vm(root, qemu):
    return root.register_vm("guest", qmp_socket=qemu.qmp)


@pytest.fixture(scope="module")
def pool(root, vm, vms):
    return root.find("pool", os.path.basename(vms))


# --- the files ----------------------------------------------------------------------------------------------

def test_unit_verify():
    # It looks for the man pages, too, where there is a program that would show them.
    has_pages = shutil.which("man") and os.path.exists("/usr/share/man/man8/volchaind.8")
    words = run("systemd-analyze", "verify", f"--man={'yes' if has_pages else 'no'}", UNIT)
    assert words.strip() == ""


def test_unit_exposure():
    run("systemd-analyze", "security", f"--threshold={MAX_EXPOSURE}", "--no-pager", UNIT)


def test_installed_program_has_no_failpoints():
    program = re.search(r"path=(\S+)", show("ExecStart")).group(1)
    assert program == "/usr/libexec/volchain/volchaind"
    with open(program, "rb") as f:
        assert b"VOLCHAIN_FAILPOINTS" not in f.read()


def test_sysusers_and_tmpfiles():
    assert grp.getgrnam("volchain").gr_mem == ["member"]
    for path, mode in ("/var/lib/volchain", 0o711), ("/run/volchain", 0o711):
        status = os.stat(path)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, mode), path


def test_shipped_configuration_is_there():
    assert os.path.exists("/etc/volchain/volchain.toml") and os.path.isdir("/etc/volchain/volchain.toml.d")


# --- starting -----------------------------------------------------------------------------------------------

def test_bus_activation():
    assert show("ActiveState") == "inactive"
    version = run("busctl", "--json=short", "get-property", NAME, ROOT, f"{NAME}.Manager", "Version")
    assert json.loads(version)["data"]
    assert show("ActiveState") == "active" and show("SubState") == "running"
    status = run("busctl", "status", NAME)
    assert f"PID={main_pid()}\n" in status


def test_ready_when_the_name_is_owned(root):
    """`systemctl start` returns at READY=1: from then on nobody has to wait or be activated."""
    run("systemctl", "stop", UNIT)
    run("systemctl", "start", UNIT)
    owner = root.connection  # asked without activation: who owns it right now
    assert owner
    pid = run("busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
              "GetConnectionUnixProcessID", "s", NAME)
    assert pid.split() == ["u", show("MainPID")]
    assert show("StatusText") == "Ready"
    messages = [e["MESSAGE"] for e in journal(f"_SYSTEMD_UNIT={UNIT}", "+", f"UNIT={UNIT}")]
    ready = max(i for i, m in enumerate(messages) if "is ready" in m)
    assert any(m.startswith("Started") for m in messages[ready:])


def test_enable():
    run("systemctl", "enable", UNIT)
    assert run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    assert run("systemctl", "is-enabled", "dbus-org.volchain1.service").strip() == "alias"


def test_unknown_key_in_the_configuration_fails_the_start():
    path = "/etc/volchain/volchain.toml.d/50-test.toml"
    with open(path, "w") as f:
        f.write("[qemu]\nno-such-key = true\n")
    drop_in("no-restart", "[Service]\nRestart=no\n")
    run("systemctl", "restart", UNIT, check=False)
    assert show("Result") == "exit-code"
    assert any(path in e["MESSAGE"] and "no-such-key" in e["MESSAGE"] for e in journal())
    os.unlink(path)
    without_drop_in("no-restart")
    restart()


# --- who may what -------------------------------------------------------------------------------------------

def test_root_may(root):
    directory = "/srv/of-root"
    os.mkdir(directory)
    pool = root.create_pool("of-root", directory)
    root.call(pool, "Pool", "Remove")


def test_plain_user_may_look(root, plain):
    os.mkdir("/srv/seen")
    pool = root.create_pool("seen", "/srv/seen")
    assert plain.find("pool", "seen") == pool
    assert plain.get(pool, "Pool", "Path") == "/srv/seen"


def test_plain_user_may_not_change_anything(plain):
    for interactive, expected in ((False, "InteractiveAuthorizationRequired"), (True, "AccessDenied")):
        # Nobody is there to be asked for a password, so the second answer is a plain no.
        with pytest.raises(DBusError) as refused:
            plain.call(ROOT, "Manager", "CreatePool", "ssa{sv}", "mine", "/srv/seen", {},
                       interactive=interactive)
        assert refused.value.name == f"org.freedesktop.DBus.Error.{expected}"


def test_member_of_the_group_may(member):
    os.mkdir("/srv/of-member")
    pool = member.create_pool("of-member", "/srv/of-member")
    disk = member.finish(member.call(pool, "Pool", "CreateDisk", "sta{sv}", "members", MiB, {}))["disk"]
    assert member.get(disk, "Disk", "SizeBytes") == MiB


# --- the work, inside the sandbox ---------------------------------------------------------------------------

def test_sandbox_is_closed():
    """From here on a system call that the unit does not allow ends the process that makes it, daemon or
    helper, instead of failing with EPERM: nothing that is denied can be passed over in silence."""
    drop_in("strict", "[Service]\nSystemCallErrorNumber=kill\n")
    restart()
    with open(f"/proc/{main_pid()}/status") as f:
        status = f.read()
    assert "Seccomp:\t2" in status and "NoNewPrivs:\t1" in status


def test_running_vm_is_adopted(root, vm, qemu, pool):
    assert root.get(vm, "VM", "State") == "running"
    assert sorted(disks_of(root, vm)) == ["serial0", "serial1"]
    assert root.get(pool, "Pool", "Path") == VMS


def test_live_snapshot(root, vm, qemu, owner):
    snapshot = root.finish(root.create_snapshot(vm, "live"))["snapshot"]
    assert root.get(snapshot, "Snapshot", "Consistency") == "crash"
    for device, base in ("serial0", "root.qcow2"), ("serial1", "data.qcow2"):
        overlay = disks_of(root, vm)[device]["ActivePath"]
        assert overlay in {n["file"] for n in qemu.nodes().values()}
        status = os.stat(overlay)
        assert (status.st_uid, status.st_gid) == (owner.pw_uid, owner.pw_gid)
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert [os.path.basename(layer) for layer in images.chain(overlay)[1:]] == [base]
    qemu.write("dev0", 0xa5, 0, 65536)


def test_create_disk(root, pool, owner):
    result = root.finish(root.call(pool, "Pool", "CreateDisk", "sta{sv}", "fresh", 128 * MiB, {}))
    path = root.get(result["volume"], "Volume", "Path")
    images.check(path)
    assert os.stat(path).st_uid == owner.pw_uid and images.info(path)["virtual-size"] == 128 * MiB


def test_helper_is_the_image_owner_without_privileges(root, pool, owner):
    job = root.call(pool, "Pool", "CreateDisk", "sta{sv}", "large", 2048 * MiB, FULL)
    status = wait_for("a storage daemon of another user", lambda: next(
        (s for s in children().values()
         if s["Name"].startswith("qemu-storage") and s["Uid"].split()[0] != "0"), None))
    root.call(job, "Job", "Cancel")
    assert root.wait(job)[0] == "cancelled"
    assert status["Uid"].split() == [str(owner.pw_uid)] * 4
    assert status["Gid"].split() == [str(owner.pw_gid)] * 4
    assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    # The bounding set is of no use with no_new_privs.
    held = {name: value for name, value in status.items() if name.startswith("Cap") and name != "CapBnd"}
    assert len(held) == 4 and set(held.values()) == {"0" * 16}


def test_import_disk(root, pool, vms, owner):
    base = make_image(f"{vms}/imported-base.qcow2", owner)
    top = make_image(f"{vms}/imported.qcow2", owner, size=None, backing=os.path.basename(base))
    disk = root.finish(root.call(pool, "Pool", "ImportDisk", "sa{sv}", top, {}))["disk"]
    assert len(root.get(disk, "Disk", "Volumes")) == 2
    assert root.get(disk, "Disk", "State") == "ok"


def test_offline_snapshot(root, vm, qemu, owner):
    """Done by storage daemons that run as the owner of the images; bitmaps are carried on."""
    with root.signals(path=vm, member="PropertiesChanged") as signals:
        qemu.quit()
        signals.until(lambda path, member, body: body[1].get("State", (None, None))[1] == "shutoff")
    snapshot = root.finish(root.create_snapshot(vm, "offline"))["snapshot"]
    assert root.get(snapshot, "Snapshot", "Consistency") == "offline"
    active = {target: disk["ActivePath"] for target, disk in disks_of(root, vm).items()}
    for path in active.values():
        images.check(path)
        assert os.stat(path).st_uid == owner.pw_uid and len(images.chain(path)) == 3
    assert "backup0" in images.bitmaps(active["serial1"])
    # It starts again, on the new leaves.
    for base, path in ("root", active["serial0"]), ("data", active["serial1"]):
        qemu.argv = [a.replace(f'"{VMS}/{base}.qcow2"', f'"{path}"') for a in qemu.argv]
    qemu.start()
    wait_running(root, vm)


# --- the journal --------------------------------------------------------------------------------------------

def test_journal_fields(root, vm):
    job = root.create_snapshot(vm, "journalled")
    root.finish(job)
    job_id, vm_id = root.get(job, "Job", "Id"), root.get(vm, "VM", "Id")
    entries = journal(f"VOLCHAIN_JOB={job_id}")
    assert any(e["MESSAGE"] == "create-snapshot done" for e in entries), [e["MESSAGE"] for e in entries]
    for entry in entries:
        assert entry["VOLCHAIN_VM"] == vm_id
        assert entry["_SYSTEMD_UNIT"] == UNIT and entry["SYSLOG_IDENTIFIER"] == "volchaind"
    assert {e["VOLCHAIN_VM"] for e in journal(f"VOLCHAIN_VM={vm_id}")} == {vm_id}


def test_log_level(root, vm, plain):
    assert run("systemctl", "service-log-level", UNIT).strip() == "info"
    run("systemctl", "service-log-level", UNIT, "debug")
    assert run("systemctl", "service-log-level", UNIT).strip() == "debug"
    job = root.create_snapshot(vm, "debugged")
    root.finish(job)
    assert any(e["PRIORITY"] == "7" for e in journal(f"VOLCHAIN_JOB={root.get(job, 'Job', 'Id')}"))
    with pytest.raises(DBusError) as refused:
        plain.call("/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties", "Set", "ssv",
                   "org.freedesktop.LogControl1", "LogLevel", ("s", "err"))
    assert refused.value.name == "org.freedesktop.DBus.Error.AccessDenied"
    assert run("systemctl", "service-log-level", UNIT).strip() == "debug"
    run("systemctl", "service-log-level", UNIT, "info")
    assert run("systemctl", "service-log-target", UNIT).strip() == "journal"


# --- being killed, hanging, being stopped -------------------------------------------------------------------

def test_killed_daemon_comes_back_with_its_vms(root, vm):
    before = int(show("NRestarts"))
    with new_owner(root):
        os.kill(main_pid(), signal.SIGKILL)
    assert int(show("NRestarts")) == before + 1
    assert root.get(vm, "VM", "Name") == "guest"
    wait_running(root, vm)
    root.finish(root.create_snapshot(vm, "after-the-kill"))


def test_ready_means_recovered(root, pool):
    """A job that is broken off by a SIGKILL has been settled when the service is up again."""
    job = root.call(pool, "Pool", "CreateDisk", "sta{sv}", "broken-off", 2048 * MiB, FULL)
    wait_for("a storage daemon", children)
    with new_owner(root):
        os.kill(main_pid(), signal.SIGKILL)
    assert root.get(job, "Job", "State") == "failed"
    assert root.get(job, "Job", "Error")[0] == f"{NAME}.Error.Interrupted"
    assert not [name for name in os.listdir(VMS) if name.startswith("broken-off")]


def test_watchdog_restarts_a_daemon_that_hangs(root, vm):
    drop_in("watchdog", "[Service]\nWatchdogSec=2s\n")
    restart()
    before = int(show("NRestarts"))
    with new_owner(root):
        os.kill(main_pid(), signal.SIGSTOP)
    assert int(show("NRestarts")) == before + 1
    assert any("Watchdog timeout" in e["MESSAGE"] for e in journal(f"UNIT={UNIT}"))
    wait_running(root, vm)
    without_drop_in("watchdog")
    restart()


def shown_by(client, export, directory):
    """Digest of what an export shows over NBD."""
    copy = f"{directory}/shown.raw"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", client.get(export, "Export", "Uri"), copy)
    try:
        return images.digest(copy, fmt="raw")
    finally:
        os.unlink(copy)


def scopes():
    lines = run("systemctl", "list-units", "--type=scope", "--no-legend", "--plain", "volchain*").splitlines()
    return [line.split()[0] for line in lines]


def test_exports_go_on_without_the_service(root, pool, tmp_path):
    """Their storage daemons are in units of their own: neither a restart nor a crash of the service ends them."""
    disk = root.finish(root.call(pool, "Pool", "CreateDisk", "sta{sv}", "shown", 16 * MiB, {}))["disk"]
    path = root.get(disk, "Disk", "ActivePath")
    images.write(path, 7, 0, MiB)
    snapshot = root.finish(root.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "shown", {}))["snapshot"]
    expected = images.digest(path)
    exports = [root.finish(root.call(snapshot, "Snapshot", "Export", "oa{sv}", disk, options))["export"]
               for options in ({}, {"writable": ("b", True)})]
    assert len(scopes()) == 2, scopes()
    assert [shown_by(root, export, tmp_path) for export in exports] == [expected] * 2
    restart()
    assert sorted(root.of_kind("export")) == sorted(exports)
    assert [shown_by(root, export, tmp_path) for export in exports] == [expected] * 2
    with new_owner(root):
        os.kill(main_pid(), signal.SIGKILL)
    assert [shown_by(root, export, tmp_path) for export in exports] == [expected] * 2
    for export in exports:
        root.finish(root.call(export, "Export", "Stop", "a{sv}", {}))
    wait_for("the end of the units", lambda: not scopes())
    root.finish(root.call(disk, "Disk", "Delete", "a{sv}", {"snapshots": ("b", True)}))


@pytest.fixture
def shown(root, pool):
    """(disk, snapshot, digest of what it holds), all to itself."""
    disk = root.finish(root.call(pool, "Pool", "CreateDisk", "sta{sv}", "outside", 16 * MiB, {}))["disk"]
    path = root.get(disk, "Disk", "ActivePath")
    images.write(path, 7, 0, MiB)
    snapshot = root.finish(root.call(disk, "Disk", "CreateSnapshot", "sa{sv}", "outside", {}))["snapshot"]
    yield disk, snapshot, images.digest(path)
    for export in root.of_kind("export"):
        root.finish(root.call(export, "Export", "Stop", "a{sv}", {}))
    wait_for("the end of the units", lambda: not units("volchain-export*"))
    root.finish(root.call(disk, "Disk", "Delete", "a{sv}", {"snapshots": ("b", True)}))


def export_of(root, shown, **options):
    return root.finish(root.call(shown[1], "Snapshot", "Export", "oa{sv}", shown[0], options))["export"]


def units(pattern):
    lines = run("systemctl", "list-units", "--all", "--no-legend", "--plain", pattern).splitlines()
    return [line.split()[0] for line in lines]


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def processes_of(unit):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/cgroup") as f:
            found += [pid] if any(line.rstrip().endswith("/" + unit) for line in f) else []
    return found


def mounts():
    with open("/proc/mounts") as f:
        return [line.split()[1] for line in f if line.split()[1].startswith("/run/volchain/")]


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="exports of kind file are NOT tested: no /dev/fuse")
def test_an_export_is_a_file_for_the_whole_host(root, plain, shown):
    """Which the service itself could not mount: a unit of its own does that, and can do little else."""
    uid = pwd.getpwnam("plain").pw_uid
    export = export_of(root, shown, kind=("s", "file"), **{"allow-uid": ("u", uid)})
    path = root.get(export, "Export", "Path")
    assert mounts() == [path] and os.stat(path).st_uid == uid
    assert images.digest(path, fmt="raw") == shown[2]
    read = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "head", "-c", "4", path]
    assert run(*read) == "\7" * 4
    [unit] = units("volchain-export-mount-*.service")
    pid = int(run("systemctl", "show", "-P", "MainPID", unit))
    status = status_of(pid)
    assert status["CapBnd"] == status["CapEff"] == f"{1 << 21:016x}", "CAP_SYS_ADMIN alone"
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    # The other one, which has the image open, is as little privileged as ever.
    [scope] = scopes()
    [reader] = processes_of(scope)
    assert status_of(reader)["CapEff"] == "0" * 16 and status_of(reader)["Uid"].split()[0] != "0"
    restart()
    assert root.get(export, "Export", "State") == "ready" and images.digest(path, fmt="raw") == shown[2]
    with new_owner(root):
        os.kill(main_pid(), signal.SIGKILL)
    assert images.digest(path, fmt="raw") == shown[2]
    root.finish(root.call(export, "Export", "Stop", "a{sv}", {}))
    assert mounts() == [] and not os.path.exists(path) and units("volchain-export-mount-*") == []


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="exports of kind file are NOT tested: no /dev/fuse")
@pytest.mark.parametrize("when", ["the service runs", "the service is down"])
def test_a_killed_process_leaves_no_mount(root, shown, when):
    """No dead mount, which whoever looks at would get an error from, or hang."""
    export = export_of(root, shown, kind=("s", "file"), writable=("b", True))
    [unit] = units("volchain-export-mount-*.service")
    pid = int(run("systemctl", "show", "-P", "MainPID", unit))
    if when == "the service is down":
        run("systemctl", "stop", UNIT)
    os.kill(pid, signal.SIGKILL)
    wait_for("the mount to go", lambda: mounts() == [])
    run("systemctl", "start", UNIT)
    wait_for("the export to go", lambda: export not in root.of_kind("export"))
    wait_for("its directory to go", lambda: os.listdir("/run/volchain/exports") == [])


def test_an_export_over_tcp(root, shown, tmp_path):
    """On the host's network, which the service has no part in: a process that does nothing else listens there for it."""
    nbd = pytest.importorskip("nbd")
    with open(f"{tmp_path}/keys.psk", "w") as f:
        f.write("appliance:" + "5a" * 32 + "\n")

    def begin(address):
        options = {"address": ("s", address), "tls-credentials": ("s", str(tmp_path))}
        return root.call(shown[1], "Snapshot", "Export", "oa{sv}", shown[0], options)

    def connect(export):
        host, port = root.get(export, "Export", "Uri").removeprefix("nbds://").rstrip("/").rsplit(":", 1)
        handle = nbd.NBD()
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_psk_file(f"{tmp_path}/keys.psk")
        handle.set_tls_username("appliance")
        handle.connect_tcp(host, port)
        return handle
    assert os.readlink("/proc/self/ns/net") != os.readlink(f"/proc/{main_pid()}/ns/net")
    # Also a port that takes a privilege.
    made = [root.finish(begin(address))["export"] for address in ("127.0.0.1:0", "127.0.0.1:1009")]
    assert root.get(made[1], "Export", "Uri") == "nbds://127.0.0.1:1009/"
    for export in made:
        handle = connect(export)
        assert handle.pread(4, 0) == b"\7" * 4
        wait_for("the connection to be counted", lambda: root.get(export, "Export", "Connections") == 1)
        handle.shutdown()
    for address, error, text in ("127.0.0.1:1009", "InUse", "another process"), ("192.0.2.77:0", "Unsupported", "no such"):
        name, message = root.failure(begin(address))
        assert name == error and text in message, message
    handle = connect(made[0])
    over_unix = export_of(root, shown)
    local = nbd.NBD()
    local.connect_uri(root.get(over_unix, "Export", "Uri"))
    restart()
    assert handle.pread(4, 0) == b"\7" * 4
    # The daemon has another network namespace now than those that it counts in.
    assert [root.get(export, "Export", "Connections") for export in (made[0], over_unix)] == [1, 1]
    handle.shutdown()
    local.shutdown()
    assert connect(made[1]).pread(4, 0) == b"\7" * 4
    assert units("volchain-listener-*") == []


def test_stop_lets_operations_end(root, pool):
    job = root.call(pool, "Pool", "CreateDisk", "sta{sv}", "finished-late", 1024 * MiB, FULL)
    wait_for("a storage daemon", children)
    run("systemctl", "stop", UNIT)
    assert show("Result") == "success" and show("ExecMainStatus") == "0"
    run("systemctl", "start", UNIT)
    state, error, message, _ = root.wait(job)
    assert state == "succeeded", f"{error}: {message}"


def test_stop_is_quick_and_in_order(root, vm):
    wait_running(root, vm)
    pid = main_pid()
    started = time.monotonic()
    run("systemctl", "stop", UNIT)
    assert time.monotonic() - started < 3
    assert show("Result") == "success" and show("ExecMainStatus") == "0" and show("ExecMainCode") == "1"
    assert not os.path.exists(f"/proc/{pid}")
    # What is on disk is all there; sockets of helpers are not left behind.
    assert [name for _, _, files in os.walk("/run/volchain") for name in files] == []


def test_nothing_was_denied():
    """Nothing was refused to the daemon or its helpers, in all of the above."""
    denied = re.compile(r"(?i)not permitted|permission denied|seccomp|landlock|EACCES|EPERM")
    for entry in journal():
        assert not denied.search(entry["MESSAGE"]), entry
    for entry in journal(f"UNIT={UNIT}"):
        assert "status=31/SYS" not in entry["MESSAGE"], entry  # a system call that the unit does not allow
    crashes = [e["MESSAGE"] for e in journal() if int(e["PRIORITY"]) <= 3]
    assert [m for m in crashes if "no-such-key" not in m] == []


def test_refused_landlock_is_said(root, pool):
    without_drop_in("strict")
    drop_in("no-landlock", "[Service]\nSystemCallFilter=~landlock_create_ruleset\n")
    restart()
    root.finish(root.call(pool, "Pool", "CreateDisk", "sta{sv}", "unheld", MiB, {}))
    entries = journal(f"_PID={main_pid()}")
    assert [e["PRIORITY"] for e in entries if "Landlock is refused" in e["MESSAGE"]] == ["4"]
    without_drop_in("no-landlock")


def test_works_as_shipped(root, vm):
    """And with the unit as it is, without the stricter settings of these checks."""
    assert not os.listdir(DROP_INS)
    restart()
    wait_running(root, vm)
    root.finish(root.create_snapshot(vm, "as-shipped"))
    root.call(vm, "VM", "Unregister", "a{sv}", {"forget-snapshots": ("b", True)})
    assert run("systemctl", "--failed", "--no-legend", "--plain").strip() == ""
