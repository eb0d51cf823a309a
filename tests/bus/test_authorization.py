# SPDX-License-Identifier: MIT
"""Who may call what: every method against the table in daemon/authorization.cpp, with a polkit that notes
what it is asked, with none, and with polkitd itself and the project's policy and rules."""
import os
import re
import shutil
import tempfile
import xml.etree.ElementTree as ET

import pytest

from harness import images, interfaces, polkit
from harness.client import NAME, ROOT, Client, DBusError
from harness.interfaces import KINDS
from harness.world import CALLS, MiB, World

SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
METHODS = {f"{i.short}.{m.name}": m for i in interfaces.declared().values() for m in i.methods.values()}
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGE = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
# What no action gives a right to: Export.Open is for its owner, and whom that has named.
OWNERS_ONLY = {"Export.Open"}
PLAIN, OTHER = 2, 3  # bin and sys: the bus wants users that it can look up


def table():
    """{method: action} as the daemon has it."""
    with open(f"{SOURCE}/daemon/authorization.cpp") as f:
        text = f.read()
    actions = dict(re.findall(r'constexpr std::string_view (\w+) =\s*"([^"]+)"', text))
    rows = re.findall(r'Rule\{"org\.volchain1\.(\w+)", "(\w+)", (\w+)\}', text)
    assert len(set(rows)) == len(rows) > 0
    return {f"{interface}.{method}": actions[action] for interface, method, action in rows}


TABLE = table()


def world_with(authority):
    directory = tempfile.mkdtemp(prefix="vc-")
    os.chmod(directory, 0o755)
    world = World(directory, polkit=authority)
    try:
        world.start()
        yield world
    finally:
        world.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def world():
    """With a polkit that says what it is told."""
    yield from world_with(polkit.FakePolkit)


@pytest.fixture(scope="module")
def world_without_polkit():
    yield from world_with(None)


@pytest.fixture(scope="module")
def world_with_polkitd():
    if not os.path.exists(polkit.POLKITD):
        pytest.skip(f"no {polkit.POLKITD}: the shipped policy is NOT tested")
    yield from world_with(polkit.RealPolkit)


@pytest.fixture
def plain(world):
    client = Client(world.bus.address, uid=PLAIN)
    yield client
    client.close()


def attempt(world, client, key, arguments=None, **options):
    """The name of the error that a right call ends in, None for success."""
    interface, member = key.split(".")
    arguments = CALLS[key][0](world) if arguments is None else arguments
    try:
        result = client.call(world.target(key), interface, member, METHODS[key].signature or None, *arguments,
                             **options)
    except DBusError as error:
        return error.name
    if isinstance(result, str) and result.startswith(f"{ROOT}/job/"):
        client.finish(result)
    return None


def expected_error(key, expected):
    """Of a right call made by somebody who owns nothing."""
    return DENIED if key in OWNERS_ONLY else f"{NAME}.Error.{expected}" if expected else None


# --- the table ----------------------------------------------------------------------------------------------

def test_table_is_complete():
    assert set(TABLE) == set(METHODS)


def test_actions_are_those_of_the_policy():
    actions = ET.parse(f"{SOURCE}/systemd/org.volchain1.policy").getroot().findall("action")
    assert {a.get("id") for a in actions} == set(TABLE.values())
    for action in actions:
        assert action.find("description").text and action.find("message").text
        defaults = {d.tag: d.text for d in action.find("defaults")}
        if action.get("id") == f"{NAME}.look":
            assert set(defaults.values()) == {"yes"}
        else:
            assert defaults == {"allow_any": "auth_admin", "allow_inactive": "auth_admin",
                                "allow_active": "auth_admin_keep"}


@pytest.mark.parametrize("key", sorted(METHODS))
def test_interface_names_the_action(key):
    assert re.search(rf"\b{re.escape(TABLE[key])}\b", METHODS[key].doc)


# --- a polkit that notes what it is asked -------------------------------------------------------------------

@pytest.mark.parametrize("key", sorted(METHODS))
def test_each_method_asks_for_its_action(world, plain, key):
    before = world.objects(), world.files()
    world.polkit.answers = {}
    world.polkit.asked()
    assert attempt(world, plain, key) == DENIED
    (question,) = world.polkit.asked()
    assert question.subject == plain.unique_name
    assert question.action == TABLE[key] and question.flags == 0
    assert question.details == {"method": key.split(".")[1], "path": world.target(key)}

    world.polkit.answers = {TABLE[key]: "challenge"}
    assert attempt(world, plain, key) == CHALLENGE
    assert attempt(world, plain, key, interactive=True) == DENIED  # there was nobody to give a password
    assert [q.flags for q in world.polkit.asked()] == [0, 1]

    # What another action allows, or a yes to somebody else, is of no use.
    world.polkit.answers = {action: "yes" for action in TABLE.values() if action != TABLE[key]}
    assert attempt(world, plain, key) == DENIED
    assert (world.objects(), world.files()) == before


@pytest.mark.parametrize("key", sorted(k for k, m in METHODS.items() if ("options", "a{sv}") in m.inputs))
def test_denied_before_anything_is_looked_at(world, plain, key):
    """Who may not call is not told whether the call would have been right."""
    world.polkit.answers = {}
    bad = CALLS[key][0](world)[:-1] + [{"no-such-option": ("b", True)}]
    bad = ["\x01" if isinstance(a, str) and a[:1] != "/" else a for a in bad]
    assert attempt(world, plain, key, bad) == DENIED


def test_everything_can_be_read(world, plain):
    world.polkit.answers = {}
    world.polkit.asked()
    everything = plain.objects()
    assert everything.keys() == world.client.objects().keys()
    for kind in KINDS:
        path = world.one[kind]
        name = interfaces.name_of(kind)
        assert plain.get_all(path, name).keys() == everything[path][name].keys()
        assert plain.get(path, name, "Id")
        assert interfaces.parse(plain.introspect(path))
    assert world.polkit.asked() == []


def test_configuration_is_in_no_property(world, plain):
    """It may hold secrets: only GetConfig shows it, which has an action of its own."""
    secret = b"<password>hunter2</password>"
    world.client.call(world.down, "VM", "SetConfig", "ays", secret, "application/xml")
    world.client.finish(world.client.create_snapshot(world.down, "with-secret"))
    assert "hunter2" not in repr(plain.objects())
    world.polkit.answers = {f"{NAME}.look": "yes"}
    for key in "VM.GetConfig", "Snapshot.GetConfig":
        assert attempt(world, plain, key) == DENIED


def test_root_is_not_asked_for(world):
    world.polkit.asked()
    assert attempt(world, world.client, "Pool.Refresh") is None
    assert attempt(world, world.client, "VM.GetConfig") is None
    assert world.polkit.asked() == []


def test_owner_may_cancel_a_job_and_others_may_not(world, plain):
    world.polkit.answers = {f"{NAME}.manage-disks": "yes"}
    options = {"preallocation": ("s", "full")}
    job = plain.call(world.pool, "Pool", "CreateDisk", "sta{sv}", "cancelled", 8192 * MiB, options)
    assert world.client.get(job, "Job", "OwnerUid") == PLAIN
    other = Client(world.bus.address, uid=OTHER)
    try:
        world.polkit.asked()
        with pytest.raises(DBusError) as refused:
            other.call(job, "Job", "Cancel")
        assert refused.value.name == DENIED
        assert [q.action for q in world.polkit.asked()] == [f"{NAME}.manage-jobs"]
    finally:
        other.close()
    plain.call(job, "Job", "Cancel")
    assert world.polkit.asked() == []
    assert world.client.wait(job)[:2] == ("cancelled", "Cancelled")
    # Of other things that a job's owner started, polkit decides.
    world.polkit.answers = {}
    assert attempt(world, plain, "Job.Wait") == DENIED


def test_an_export_is_its_owners(world, plain):
    """Who made it needs nobody's leave; to whom it is shown may open it and nothing else; a yes of polkit does for all but
    the opening, which is for those two alone."""
    world.polkit.answers = {f"{NAME}.export": "yes"}
    made = world.client.finish(plain.call(world.snapshot, "Snapshot", "Export", "oa{sv}", world.disks[2], {"allow-uid": ("u", OTHER)}))
    export = made["export"]
    assert world.client.get(export, "Export", "OwnerUid") == PLAIN
    other, third = Client(world.bus.address, uid=OTHER), Client(world.bus.address, uid=OTHER + 1)
    try:
        world.polkit.answers = {}
        world.polkit.asked()
        for client in (plain, other, world.client):
            client.call(export, "Export", "Open").to_socket().close()
        assert world.polkit.asked() == []
        for client, calls in (other, ("Renew", "Stop")), (third, ("Open", "Renew", "Stop")):
            for member in calls:
                arguments = {"Renew": ("t", 0), "Stop": ("a{sv}", {}), "Open": ()}[member]
                with pytest.raises(DBusError) as refused:
                    client.call(export, "Export", member, *arguments)
                assert refused.value.name == DENIED, member
        world.polkit.answers = {f"{NAME}.export": "yes"}
        with pytest.raises(DBusError) as refused:
            third.call(export, "Export", "Open")
        assert refused.value.name == DENIED and str(OTHER) in refused.value.message
        third.call(export, "Export", "Renew", "t", 0)
        world.polkit.answers = {}
        plain.call(export, "Export", "Renew", "t", 3_600_000_000)
        world.client.finish(plain.call(export, "Export", "Stop", "a{sv}", {}))
    finally:
        other.close()
        third.close()


@pytest.fixture
def private_place():
    """A directory that user PLAIN alone may enter, and root."""
    directory = tempfile.mkdtemp(prefix="vc-private-")
    os.chmod(directory, 0o700)
    os.chown(directory, PLAIN, PLAIN)
    yield directory
    shutil.rmtree(directory)


def test_a_copy_is_imported_with_the_rights_of_its_caller(world, plain, private_place):
    """Whatever the daemon itself may read."""
    world.polkit.answers = {f"{NAME}.manage-disks": "yes"}
    own, roots = f"{private_place}/own.qcow2", f"{private_place}/roots.qcow2"
    for path in (own, roots):
        images.create(path, MiB)
        images.write(path, 0x31, 0, 65536)
        os.chmod(path, 0o600)
    os.chown(own, PLAIN, PLAIN)
    other = Client(world.bus.address, uid=OTHER)

    def begin(client, path, name):
        return client.call(world.pool, "Pool", "ImportDisk", "sa{sv}", path,
                           {"copy": ("b", True), "name": ("s", name)})
    try:
        before = world.files()
        for client, path in (plain, roots), (other, own):
            state, error, message, _ = world.client.wait(begin(client, path, "not-mine"))
            assert state == "failed" and error.endswith("AccessDenied"), (error, message)
        assert world.files() == before
        made = world.client.finish(begin(plain, own, "mine"))
        assert images.digest(world.client.get(made["volume"], "Volume", "Path")) == images.digest(own)
    finally:
        other.close()
    world.client.finish(world.client.call(made["disk"], "Disk", "Delete", "a{sv}", {}))


def test_yes_is_enough(world, plain):
    """The last with this daemon: all right calls, made by nobody in particular."""
    world.polkit.answers = {action: "yes" for action in TABLE.values()}
    world.polkit.asked()
    for key, (_, expected) in CALLS.items():
        error = attempt(world, plain, key)
        assert error == expected_error(key, expected), key
        assert world.polkit.asked()[0].action == TABLE[key]
    jobs = [j for j in world.client.of_kind("job").values() if j["OwnerUid"] == PLAIN]
    assert {j["Kind"] for j in jobs} >= {"create-disk", "import-disk", "refresh-pool", "create-snapshot",
                                         "attach-disk"}


# --- no polkit ----------------------------------------------------------------------------------------------

def test_without_polkit_only_root_may(world_without_polkit):
    world = world_without_polkit
    plain = Client(world.bus.address, uid=PLAIN)
    try:
        before = world.objects(), world.files()
        for key in METHODS:
            assert attempt(world, plain, key) == DENIED, key
            assert attempt(world, plain, key, interactive=True) == DENIED, key
        assert (world.objects(), world.files()) == before
        assert plain.objects().keys() == world.client.objects().keys()
    finally:
        plain.close()
    for key, (_, expected) in CALLS.items():
        error = attempt(world, world.client, key)
        assert error == (f"{NAME}.Error.{expected}" if expected else None), key


# --- polkitd, with what is installed ------------------------------------------------------------------------

def test_shipped_policy(world_with_polkitd):
    world = world_with_polkitd
    plain = Client(world.bus.address, uid=polkit.RealPolkit.plain)
    member = Client(world.bus.address, uid=polkit.RealPolkit.member)
    try:
        for key, action in TABLE.items():
            open_to_all = action == f"{NAME}.look"
            # Where there is no agent to ask for a password, to be allowed to ask is of no use.
            assert attempt(world, plain, key) == (None if open_to_all else CHALLENGE), key
            assert attempt(world, plain, key, interactive=True) == (None if open_to_all else DENIED), key
        for key, (_, expected) in CALLS.items():
            error = attempt(world, member, key)
            assert error == expected_error(key, expected), key
    finally:
        plain.close()
        member.close()
