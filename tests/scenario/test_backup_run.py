# SPDX-License-Identifier: MIT
"""volchainctl backup run, verify, list and restore: a directory of moments that is right whatever ends a run, that finds its
damage, and from which disks and VMs come back as they were, by digest."""
import json
import os
import random
import signal
import time

import pytest

from harness import backups, images
from harness.ctl import Ctl
from harness.tree import MIB, Tree

SIZE = 64 * MIB
CLUSTER = 65536
CONFIG = b"<domain><name>web</name></domain>"


@pytest.fixture
def ctl(bus, daemon, directory):
    failpoints = f"{directory}/client-failpoints"
    os.mkdir(failpoints)
    return Ctl(bus.address, VOLCHAIN_FAILPOINTS=failpoints)


@pytest.fixture
def tree(client, directory, qemus, daemon):
    tree = Tree(client, directory, qemus, count=2, size=SIZE)
    client.call(tree.vm, "VM", "SetConfig", "ays", CONFIG, "application/xml")
    yield tree
    until_no_backup(client)
    assert backups.leftovers(daemon.directory, tree.pools, tree.qemu) == []


@pytest.fixture
def target(directory):
    return f"{directory}/backups"


def until_no_backup(client, timeout=40):
    """The daemon aborts what a client has left."""
    end = time.monotonic() + timeout
    while client.of_kind("backup"):
        assert time.monotonic() < end, client.of_kind("backup")
        time.sleep(0.02)


def at(ctl, name, order="kill"):
    with open(os.path.join(ctl.environment["VOLCHAIN_FAILPOINTS"], name), "w") as f:
        f.write(order)


def until_stopped(process, timeout=60):
    """Until a failpoint has stopped it."""
    end = time.monotonic() + timeout
    while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)


def scatter(tree, seed, writes=24):
    chance = random.Random(seed)
    for _ in range(writes):
        device = f"dev{chance.randrange(len(tree.disks))}"
        tree.qemu.write(device, chance.randrange(1, 255), chance.randrange(SIZE // 4096 - 8) * 4096,
                        chance.choice([4096, 32768]))


def usable(tree):
    """The checkpoints of the VM. What is left of others in layers that the VM does not write to goes when it is down."""
    return {name for name, state in backups.checkpoints(tree.client, tree.vm).items() if state == "ok"}


def content(tree):
    """{name of the disk: digest}, as they are now."""
    found = tree.content()
    return {f"web-serial{number}": found["active", number] for number in range(len(tree.disks))}


def run(ctl, target, *options):
    # Longer than it waits itself: then it says for what.
    return ctl.json("backup", "run", "web", target, "--quiesce=off", *options, timeout=200)


def kinds(moment):
    return {disk["name"]: disk["kind"] for disk in moment["disks"]}


def catalog(target):
    with open(f"{target}/volchain-backup.json") as f:
        return json.load(f)


def file_of(target, moment, disk="web-serial0"):
    return f"{target}/{disk}.{moment['moment']}.qcow2"


def as_they_lie(target, moment):
    """The digests of a moment's files, opened by their own headers."""
    return {disk["name"]: images.digest(f"{target}/{disk['file']}") for disk in moment["disks"]}


def chain_of(path):
    return [entry["filename"] for entry in json.loads(images.run("qemu-img", "info", "-U", "--backing-chain", "--output=json",
                                                                 path))]


def only_what_is_named(target):
    """Nothing is in the directory that the catalogue does not name."""
    names = {"volchain-backup.json", ".volchain-backup.lock"}
    if os.path.exists(f"{target}/volchain-backup.json"):
        for moment in catalog(target)["moments"]:
            names |= {disk[key] for disk in moment["disks"] for key in ("file", "digests")}
            if "config" in moment:
                names.add(moment["config"]["file"])
    return set(os.listdir(target)) - names == set()


def checksum_of_raw(path):
    """As org.volchain1(5) defines it, in other words."""
    import hashlib
    raw = path + ".raw"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    blocks = hashlib.sha256()
    with open(raw, "rb") as image:
        while block := image.read(65536):
            blocks.update(hashlib.sha256(block).digest())
    blocks.update(os.path.getsize(raw).to_bytes(8, "little"))
    os.unlink(raw)
    return blocks.hexdigest()


def test_chain_of_moments(tree, ctl, target, capsys):
    """Full, then what changed; with data of backing files, zeroes, what was discarded, a snapshot and a restart in between;
    each moment as it lies, by verify, and by the checksum of the catalogue."""
    tree.snapshot("s0")
    scatter(tree, 1, writes=100)
    tree.qemu.io("dev0", f"write -z {8 * MIB} {MIB}")
    held, moments = [content(tree)], [run(ctl, target)]
    assert kinds(moments[0]) == {"web-serial0": "full", "web-serial1": "full"}
    assert {disk["why"] for disk in moments[0]["disks"]} == {"it is the first one"}
    for number in range(1, 5):
        scatter(tree, 10 + number)
        if number == 1:
            # What becomes zero has to be zero in the increment, whatever is below.
            tree.qemu.io("dev0", f"write -z {MIB} {MIB}")
            tree.qemu.io("dev1", f"discard 0 {2 * MIB}")
            tree.qemu.io("dev1", f"write -P 0 {3 * MIB} {MIB}")
        if number == 2:
            tree.snapshot("s1")
        if number == 3:
            tree.down()
            tree.up()
        held.append(content(tree))
        moments.append(run(ctl, target))
        assert set(kinds(moments[-1]).values()) == {"incremental"}, moments[-1]
        read = sum(disk["data_bytes"] for disk in moments[-1]["disks"])
        with capsys.disabled():
            print(f"\n  increment {number}: {read >> 10} KiB of {2 * SIZE >> 20} MiB")
        assert read <= (24 + 80) * 2 * CLUSTER
    for moment, expected in zip(moments, held):
        assert as_they_lie(target, moment) == expected
        for disk in moment["disks"]:
            assert checksum_of_raw(f"{target}/{disk['file']}") == disk["checksum"]
    assert [os.path.basename(name) for name in chain_of(file_of(target, moments[2]))] == [
        f"web-serial0.{moments[n]['moment']}.qcow2" for n in (2, 1, 0)]
    assert usable(tree) == {moments[0]["checkpoint"], moments[4]["checkpoint"]}
    verified = ctl.json("backup", "verify", target)
    assert {one["state"] for one in verified["moments"]} == {"ok"} and len(verified["files"]) == 10
    listed = ctl.json("backup", "list", target)
    assert [one["moment"] for one in listed] == [one["moment"] for one in moments]
    assert [one["kind"] for one in listed] == ["full"] + ["incremental"] * 4
    header = ctl.ok("backup", "list", target).splitlines()[0]
    assert header.split()[:3] == ["MOMENT", "TIME", "VM"], header
    with open(f"{target}/config.{moments[0]['moment']}", "rb") as f:
        assert f.read() == CONFIG
    assert all(os.stat(f"{target}/{name}").st_mode & 0o077 == 0 for name in os.listdir(target))
    assert only_what_is_named(target)
    tree.check()


def test_what_is_written_meanwhile_is_not_in_it(tree, ctl, target):
    """The moment is that of its beginning; the client is held while the guest writes on."""
    scatter(tree, 3)
    held = content(tree)
    at(ctl, "backup-run.begun", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off", "--json=short")
    until_stopped(process)
    scatter(tree, 4, writes=60)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert as_they_lie(target, json.loads(out)) == held


def test_full_since_and_required(tree, ctl, target):
    first = run(ctl, target)
    assert "--full" in ctl.fails("backup", "run", "web", target, "--full", "--since=x", status=2)
    scatter(tree, 5)
    second = run(ctl, target)
    scatter(tree, 6)
    held = content(tree)
    third = run(ctl, target, f"--since={first['moment']}")
    assert as_they_lie(target, third) == held
    assert len(chain_of(file_of(target, third))) == 2 and len(chain_of(file_of(target, second))) == 2
    fourth = run(ctl, target, "--full")
    assert set(kinds(fourth).values()) == {"full"} and len(chain_of(file_of(target, fourth))) == 1
    assert as_they_lie(target, fourth) == held
    assert "no moment 'monday'" in ctl.fails("backup", "run", "web", target, "--since=monday")
    # The second one's checkpoint is of no use any more, and gone.
    error = ctl.fails("backup", "run", "web", target, f"--since={second['moment']}", "--require-incremental")
    assert "not there any more" in error
    fifth = run(ctl, target, "--require-incremental")
    assert set(kinds(fifth).values()) == {"incremental"}
    assert only_what_is_named(target)


def test_unusable_checkpoint(tree, ctl, target):
    """A QEMU that was killed leaves bitmaps that cannot be trusted: full again, and said why."""
    run(ctl, target)
    tree.down()
    tree.up()
    tree.qemu.kill()
    tree.up()
    held = content(tree)
    assert "which is required" in ctl.fails("backup", "run", "web", target, "--quiesce=off", "--require-incremental")
    moment = run(ctl, target)
    assert set(kinds(moment).values()) == {"full"}
    assert all("bitmap" in disk["why"] for disk in moment["disks"]), [disk["why"] for disk in moment["disks"]]
    assert as_they_lie(target, moment) == held
    assert set(kinds(run(ctl, target)).values()) == {"incremental"}
    # The one that was of no use is not kept.
    assert len(backups.checkpoints(tree.client, tree.vm)) == 2
    backups.delete_checkpoint(tree.client, tree.vm, moment["checkpoint"])
    backups.delete_checkpoint(tree.client, tree.vm, catalog(target)["moments"][-1]["checkpoint"])
    again = run(ctl, target)
    assert set(kinds(again).values()) == {"full"} and "not there any more" in again["disks"][0]["why"]


@pytest.mark.parametrize("damage", ["file", "length", "digests"])
def test_broken_link(tree, ctl, target, damage):
    """Of the disk alone whose file is not as it was."""
    moment = run(ctl, target)
    path = file_of(target, moment)
    if damage == "file":
        os.unlink(path)
    elif damage == "length":
        os.truncate(path, os.path.getsize(path) - 512)
    else:
        os.truncate(path.replace(".qcow2", ".digests"), 40)
    scatter(tree, 7)
    held = content(tree)
    second = run(ctl, target)
    assert kinds(second) == {"web-serial0": "full", "web-serial1": "incremental"}
    why = {disk["name"]: disk["why"] for disk in second["disks"]}
    assert os.path.basename(path).split(".")[0] in why["web-serial0"] and why["web-serial1"] is None
    assert as_they_lie(target, second) == held
    error = ctl.fails("backup", "verify", target, "-q")
    assert "1 of 2 moments cannot be restored" in error and second["moment"] in error


def test_several_chains_of_one_vm(tree, ctl, target, directory):
    """Each directory has checkpoints of its own, and touches no others."""
    other = f"{directory}/other"
    backups.finish(tree.client, backups.start(tree.client, tree.vm, checkpoint="monday"))
    first, second = run(ctl, target), run(ctl, other)
    prefix = [moment["checkpoint"].split(".")[0] for moment in (first, second)]
    assert prefix[0] != prefix[1]
    for _ in range(2):
        scatter(tree, 8)
        for path in (target, other):
            assert set(kinds(run(ctl, path)).values()) == {"incremental"}
    left = sorted(name.split(".")[0] for name in backups.checkpoints(tree.client, tree.vm))
    assert left == sorted(["monday"] + prefix * 2)


def test_vm_that_is_down(tree, ctl, target):
    """The same chain, before, while and after it is down."""
    run(ctl, target)
    tree.down()
    tree.write(60, 9 * MIB, MIB)
    for up in (False, True):
        if up:
            tree.up()
            scatter(tree, 9)
        held = content(tree)
        moment = run(ctl, target)
        assert set(kinds(moment).values()) == {"incremental"}, moment
        assert as_they_lie(target, moment) == held
    assert {one["state"] for one in ctl.json("backup", "verify", target)["moments"]} == {"ok"}


def test_keep(tree, ctl, target):
    """Whole chains go when none of the newest needs them."""
    made = [run(ctl, target), run(ctl, target)]
    made.append(run(ctl, target, "--full", "--keep=2"))
    # The newest but one stands on the first.
    assert len(catalog(target)["moments"]) == 3
    made.append(run(ctl, target, "--keep=2"))
    assert [one["id"] for one in catalog(target)["moments"]] == [one["moment"] for one in made[2:]]
    assert made[-1]["removed"] == 2 and only_what_is_named(target)
    assert ctl.json("backup", "verify", target)["moments"][0]["state"] == "ok"
    assert "no number" in ctl.fails("backup", "run", "web", target, "--keep=0", status=2)


def test_disks_one_by_one(tree, ctl, target):
    first = run(ctl, target, "--disk=serial0")
    assert kinds(first) == {"web-serial0": "full"}
    second = run(ctl, target)
    assert kinds(second) == {"web-serial0": "incremental", "web-serial1": "full"}


# --- damage ------------------------------------------------------------------------------------------------

def flip(path, offset):
    with open(path, "r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 0x10]))


def host_offset(path, guest):
    """Where a byte of the disk lies in the file."""
    for extent in json.loads(images.run("qemu-img", "map", "-U", "--output=json", path)):
        if extent["depth"] == 0 and extent["data"] and extent["start"] <= guest < extent["start"] + extent["length"]:
            return extent["offset"] + guest - extent["start"]
    raise AssertionError(f"{path} has nothing at {guest}")


def test_verify_names_what_is_damaged(tree, ctl, target):
    tree.write(1, 10 * MIB, MIB)
    moments = [run(ctl, target)]
    tree.write(2, 20 * MIB, MIB)
    moments.append(run(ctl, target))
    tree.write(3, 30 * MIB, MIB)
    moments.append(run(ctl, target))
    second = file_of(target, moments[1])
    flip(second, host_offset(second, 20 * MIB + 3 * CLUSTER + 5))
    result = ctl.run("backup", "verify", target, "--json=short")
    assert result.returncode == 1
    found = json.loads(result.stdout)
    bad = [one for one in found["files"] if one["state"] != "ok"]
    assert [one["file"] for one in bad] == [os.path.basename(second)]
    assert f"1 block is not what was backed up, the first at byte {20 * MIB + 3 * CLUSTER}" in bad[0]["problems"]
    assert [one["state"] for one in found["moments"]] == ["ok", "damaged", "damaged"]
    assert f"2 of 3 moments cannot be restored as they were; the last one that can is {moments[0]['moment']}" in result.stderr
    text = ctl.run("backup", "verify", target).stdout
    assert os.path.basename(second) in text and "DAMAGED" in text
    assert ctl.json("backup", "verify", target, f"--moment={moments[0]['moment']}")["moments"][0]["state"] == "ok"
    flip(second, host_offset(second, 20 * MIB + 3 * CLUSTER + 5))
    assert ctl.run("backup", "verify", target).returncode == 0


@pytest.mark.parametrize("how", ["more", "less", "link", "config", "checksum", "gone"])
def test_verify_finds_other_damage(tree, ctl, target, how):
    tree.write(1, 10 * MIB, MIB)
    first = run(ctl, target)
    tree.write(2, 20 * MIB, MIB)
    second = run(ctl, target)
    path = file_of(target, second)
    if how == "more":
        images.write(path, 9, 40 * MIB, CLUSTER)
        expected = "more than were backed up"
    elif how == "less":
        images.run("qemu-io", "-f", "qcow2", "-c", f"write -z -u {20 * MIB} {CLUSTER}", path)
        expected = "not what was backed up"
    elif how == "link":
        images.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", path)
        expected = "it stands on nothing, not on"
    elif how == "config":
        flip(f"{target}/config.{second['moment']}", 3)
        expected = "config."
    elif how == "checksum":
        document = catalog(target)
        document["moments"][1]["disks"][0]["checksum"] = "0" * 64
        with open(f"{target}/volchain-backup.json", "w") as f:
            json.dump(document, f)
        expected = "do not make the checksum"
    else:
        os.unlink(path)
        expected = "it is not there"
    result = ctl.run("backup", "verify", target)
    assert result.returncode == 1 and expected in result.stdout, result.stdout
    assert f"the last one that can is {first['moment']}" in result.stderr


def test_damaged_catalogue(tree, ctl, target):
    moment = run(ctl, target)
    path = f"{target}/volchain-backup.json"
    with open(path) as f:
        good = f.read()
    before = sorted(os.listdir(target))
    hostile = json.loads(good)
    hostile["moments"][0]["disks"][0]["file"] = "../pool/disk0.qcow2"
    absurd = json.loads(good)
    absurd["moments"][0]["disks"][0]["size"] = 1 << 63
    for text in ("", good[:200], json.dumps(hostile), json.dumps(absurd), "[" * 100000):
        with open(path, "w") as f:
            f.write(text)
        for words in (("run", "web", target), ("verify", target), ("list", target), ("restore", target, "--pool=main")):
            if words[0] == "restore" and not tree.client.of_kind("pool"):
                continue
            error = ctl.fails("backup", *[w.replace("--pool=main", f"--pool={pool_name(tree)}") for w in words])
            assert "volchain-backup.json' is damaged" in error, error
        assert sorted(os.listdir(target)) == before
    with open(path, "w") as f:
        f.write(good)
    assert ctl.json("backup", "verify", target)["moments"][0]["moment"] == moment["moment"]


def pool_name(tree):
    return next(iter(tree.client.of_kind("pool").values()))["Name"]


def test_another_vm(tree, ctl, target, directory):
    run(ctl, target)
    tree.client.register_vm("other")
    assert "has backups of another VM" in ctl.fails("backup", "run", "other", target)


# --- what ends a run ---------------------------------------------------------------------------------------

STEPS = ["begun", "named", "copied", "complete", "published", "finished", "committed"]


@pytest.mark.parametrize("step", STEPS)
def test_killed(tree, ctl, target, step):
    """The directory holds what it held, or one moment more; the next run goes on from it."""
    first = run(ctl, target)
    scatter(tree, 20)
    held = content(tree)
    at(ctl, f"backup-run.{step}")
    result = ctl.run("backup", "run", "web", target, "--quiesce=off")
    assert result.returncode == -signal.SIGKILL
    until_no_backup(tree.client)
    moments = ctl.json("backup", "list", target)
    assert len(moments) == (2 if step == "committed" else 1)
    assert {one["state"] for one in ctl.json("backup", "verify", target)["moments"]} == {"ok"}
    if step == "committed":
        assert as_they_lie(target, moments[-1]) == held
    scatter(tree, 21)
    held = content(tree)
    second = run(ctl, target)
    assert set(kinds(second).values()) == {"incremental"}, second
    assert as_they_lie(target, second) == held and only_what_is_named(target)
    assert as_they_lie(target, first) == as_they_lie(target, moments[0])
    assert len(backups.checkpoints(tree.client, tree.vm)) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tree, ctl, target, number):
    """It takes back what it has begun, and ends as the signal ends a program."""
    scatter(tree, 22)
    run(ctl, target)
    before = sorted(os.listdir(target))
    at(ctl, "backup-run.copied", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off", "--full")
    until_stopped(process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -number, err
    assert out == "" and sorted(os.listdir(target)) == before
    assert tree.client.of_kind("backup") == {}
    assert len(backups.checkpoints(tree.client, tree.vm)) == 1


def test_full_disk(tree, ctl, small_filesystem):
    """The guest does not notice; what was there stays."""
    target = f"{small_filesystem(24)}/backups"
    tree.write(1, 0, 4 * MIB)
    first = run(ctl, target)
    before = sorted(os.listdir(target))
    tree.write(2, 8 * MIB, 24 * MIB)
    error = ctl.fails("backup", "run", "web", target, "--quiesce=off")
    assert "No space left" in error, error
    assert sorted(os.listdir(target)) == before and tree.client.of_kind("backup") == {}
    assert ctl.json("backup", "verify", target)["moments"][0]["moment"] == first["moment"]
    assert list(backups.checkpoints(tree.client, tree.vm)) == [first["checkpoint"]]
    tree.check()


def test_two_at_once(tree, ctl, target):
    run(ctl, target)
    at(ctl, "backup-run.begun", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off")
    until_stopped(process)
    for words in (("run", "web", target), ("verify", target)):
        assert "another volchainctl works on the backups" in ctl.fails("backup", *words)
    assert len(ctl.json("backup", "list", target)) == 1
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0 and len(ctl.json("backup", "list", target)) == 2


def test_qemu_dies(tree, ctl, target):
    run(ctl, target)
    before = sorted(os.listdir(target))
    scatter(tree, 23)
    at(ctl, "backup-run.begun", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off")
    until_stopped(process)
    tree.qemu.kill()
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    # Which of them, is a matter of who finds it first.
    assert process.returncode == 1 and any(w in err for w in ("has ended", "not held", "is not running")), err
    assert sorted(os.listdir(target)) == before
    until_no_backup(tree.client)
    tree.up()
    held = content(tree)
    assert as_they_lie(target, run(ctl, target)) == held


def test_moment_is_lost(tree, ctl, target):
    """What Finish finds is believed: all was copied, and is worth nothing."""
    run(ctl, target)
    before = sorted(os.listdir(target))
    at(ctl, "backup-run.complete", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off")
    until_stopped(process)
    backups.spoil(tree.qemu)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and ("not held" in err or "does not answer" in err), err
    assert sorted(os.listdir(target)) == before
    until_no_backup(tree.client)
    assert set(kinds(run(ctl, target)).values()) == {"incremental"}


@pytest.mark.parametrize("step", ["copied", "published"])
def test_daemon_restarted(tree, ctl, target, daemon, client, step):
    """The moment goes on in QEMU meanwhile, and the client waits for the daemon."""
    scatter(tree, 24)
    held = content(tree)
    at(ctl, f"backup-run.{step}", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off", "--json=short")
    until_stopped(process)
    daemon.kill()
    process.send_signal(signal.SIGCONT)
    time.sleep(1)  # so that it finds nobody there; nothing tells when it has
    daemon.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert as_they_lie(target, json.loads(out)) == held


# --- without checkpoints -----------------------------------------------------------------------------------

def test_raw_disk(client, ctl, target, directory, qemus, daemon):
    os.mkdir(f"{directory}/pool")
    path = images.create(f"{directory}/pool/raw.raw", SIZE, fmt="raw")
    qemu = qemus("vm", [path])
    client.register_vm("web", qmp_socket=qemu.qmp)
    qemu.write("dev0", 7, MIB, MIB)
    for _ in range(2):
        result = ctl.run("backup", "run", "web", target, "--quiesce=off", "--json=short")
        assert result.returncode == 0 and "can hold a checkpoint" in result.stderr, result.stderr
        moment = json.loads(result.stdout)
        assert moment["disks"][0]["kind"] == "full"
        qemu.io("dev0", "flush")
        assert as_they_lie(target, moment)["web-serial0"] == images.digest(path, fmt="raw")
    assert "no checkpoint" in moment["disks"][0]["why"]


def test_a_raw_disk_alone(client, ctl, target, directory, qemus):
    """It can hold no checkpoint; the moments of the others go on from theirs."""
    os.mkdir(f"{directory}/pool")
    paths = [images.create(f"{directory}/pool/root.qcow2", SIZE), images.create(f"{directory}/pool/data.raw", SIZE, fmt="raw")]
    qemu = qemus("vm", paths)
    client.register_vm("web", qmp_socket=qemu.qmp)
    qemu.write("dev0", 7, MIB, MIB)
    first = run(ctl, target)
    alone = run(ctl, target, "--disk=serial1")
    assert [(disk["name"], disk["kind"]) for disk in alone["disks"]] == [("web-serial1", "full")] and not alone["checkpoint"]
    qemu.write("dev0", 8, 2 * MIB, MIB)
    qemu.io("dev0", "flush")
    held = images.digest(paths[0])
    last = run(ctl, target)
    assert kinds(last) == {"web-serial0": "incremental", "web-serial1": "full"}
    assert as_they_lie(target, last)["web-serial0"] == held
    root = next(disk for disk in catalog(target)["moments"][-1]["disks"] if disk["name"] == "web-serial0")
    assert root["on"] == first["moment"]


# --- other file systems, and servers ------------------------------------------------------------------------

@pytest.fixture
def fuse_directory(directory):
    """A file system that does not know how to rename without replacing, as NFS does not."""
    if os.getuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("backups onto a file system without RENAME_NOREPLACE are NOT tested: it takes root and /dev/fuse")
    image, path = f"{directory}/fuse.img", f"{directory}/fuse"
    with open(image, "wb") as f:
        f.truncate(256 * MIB)
    images.run("mkfs.ext4", "-q", "-F", image, env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
    os.mkdir(path)
    images.run("fuse2fs", "-o", "rw,fakeroot", image, path)
    yield path
    images.run("umount", path)


def test_a_file_system_that_cannot_rename_without_replacing(tree, ctl, fuse_directory):
    target = f"{fuse_directory}/backups"
    moments, held = [], []
    for number in range(2):
        scatter(tree, 40 + number)
        held.append(content(tree))
        moments.append(run(ctl, target))
    assert [as_they_lie(target, moment) for moment in moments] == held
    assert only_what_is_named(target)
    ctl.ok("backup", "verify", target, timeout=200)


def test_the_server_drops_who_does_not_negotiate(tree, ctl, target):
    """QEMU does within ten seconds; a look at a large disk takes longer."""
    scatter(tree, 50)
    held = content(tree)
    at(ctl, "backup-run.connected", "stop")
    process = ctl.start("backup", "run", "web", target, "--quiesce=off", "--json=short")
    until_stopped(process)
    time.sleep(11)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert as_they_lie(target, json.loads(out)) == held


# --- a catalogue that cannot be had --------------------------------------------------------------------------

@pytest.mark.skipif(not os.environ.get("VOLCHAIN_ALL"), reason="a full catalogue takes a minute, with sanitizers")
def test_too_many_moments(tree, ctl, target):
    """What could not be read again is not written: all moments would be out of reach."""
    first = run(ctl, target)
    whole = catalog(target)
    [moment] = whole["moments"]
    text = json.dumps(moment)
    whole["moments"] = [json.loads(text.replace(moment["id"], f"x{number}")) for number in range(19_999)] + [moment]
    with open(f"{target}/volchain-backup.json", "w") as f:
        json.dump(whole, f)
    assert "--keep" in ctl.fails("backup", "run", "web", target, "--quiesce=off", timeout=200)
    assert len(catalog(target)["moments"]) == 20_000
    last = run(ctl, target, "--keep=1")
    assert [one["id"] for one in catalog(target)["moments"]] == [first["moment"], last["moment"]]
    assert kinds(last) == {"web-serial0": "incremental", "web-serial1": "incremental"}
