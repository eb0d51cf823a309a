# SPDX-License-Identifier: MIT
"""What the running daemon answers to Introspect is what daemon/interfaces declares and explains."""
import glob
import os
import re

import pytest

from harness import interfaces
from harness.client import ROOT
from harness.interfaces import KINDS

DECLARED = interfaces.declared()
SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))


def introspected(world, path):
    return interfaces.parse(world.client.introspect(path))


def ours(names):
    return {name for name in names if name.startswith(interfaces.PREFIX)}


def test_every_kind_has_its_file():
    assert set(DECLARED) == {"org.volchain1.Manager"} | {interfaces.name_of(kind) for kind in KINDS}


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_daemon_answers_what_is_declared(world, name):
    declared = DECLARED[name]
    running = introspected(world, world.object_of(declared.short))[name]
    for group in "methods", "signals", "properties":
        mine, theirs = getattr(declared, group), getattr(running, group)
        assert sorted(mine) == sorted(theirs), f"{group} of {name}"
        for member in mine:
            assert mine[member] == theirs[member], f"{name}.{member}"


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_every_member_is_explained(name):
    declared = DECLARED[name]
    assert declared.doc.startswith(name + ":"), f"{name} has no comment"
    for group in declared.methods, declared.signals, declared.properties:
        for member in group.values():
            what = f"{name}.{member.name}"
            assert re.match(rf"{member.name}: \S", member.doc), f"{what} has no comment, or that of another"
            for argument, _, _ in member.arguments:
                assert not argument or f"@{argument}:" in member.doc, f"{what}: {argument} is not explained"


def test_every_object_has_the_interface_of_its_kind(world):
    for path, shown in world.client.objects().items():
        if path == ROOT:
            expected = "org.volchain1.Manager"
        else:
            kind = re.fullmatch(rf"{ROOT}/([a-z]+)/[0-9a-f_]{{36}}", path).group(1)
            expected = interfaces.name_of(kind)
        assert set(shown) == {expected}, path
        assert ours(introspected(world, path)) == {expected}, path
    shown = {path.split("/")[3] for path in world.client.objects() if path != ROOT}
    assert shown == set(KINDS), "not every kind was looked at"


def test_root_lists_its_objects(world):
    assert "org.freedesktop.DBus.ObjectManager" in introspected(world, ROOT)


def test_properties_are_there_with_their_types(world):
    found = world.client.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")
    for path, shown in found.items():
        for name in ours(shown):
            declared = {p.name: p.arguments[0][1] for p in DECLARED[name].properties.values()}
            assert {p: signature for p, (signature, _) in shown[name].items()} == declared, path
            assert world.client.get_all(path, name).keys() == declared.keys()


def test_no_property_can_be_written():
    for interface in DECLARED.values():
        for member in interface.properties.values():
            assert member.arguments[0][2] == "read", f"{interface.name}.{member.name}"


def test_options_are_those_that_the_code_takes():
    """By name, over all methods: bad input to each is looked at in test_bad_input.py."""
    taken = set()
    for path in glob.glob(f"{SOURCE}/daemon/*object*.cpp"):
        with open(path) as f:
            text = f.read()
        taken |= set(re.findall(r'options\.take<[^;(]*>\(\s*"([^"]+)"', text))
        taken |= set(re.findall(r'\btake_(?:word|ids?|timeout)(?:<[^;(]*>)?\(\s*options,\s*"([^"]+)"', text))
    explained = {option for i in DECLARED.values() for m in i.methods.values() for option in m.options}
    assert explained == taken and len(taken) > 10


def test_every_interface_is_installed():
    with open(f"{SOURCE}/daemon/meson.build") as f:
        text = f.read()
    assert set(re.findall(r"interfaces/(org\.volchain1\.\w+)\.xml", text)) == set(DECLARED)
