#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes corpus/bus: bodies of D-Bus messages, with a byte that chooses the types before, as bus_fuzz.cpp has
it."""
import os

from jeepney.low_level import Endianness, parse_signature

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus/bus")
SIGNATURES = ["a{sv}", "sa{sv}", "ssa{sv}", "osa{sv}", "ays", "a{oo}a{sv}", "v"]  # as in bus_fuzz.cpp
OWN = len(SIGNATURES)  # the input brings its types along

DISK = "/org/volchain1/disk/01234567_89ab_4cde_8f01_23456789abcd"
NESTED = ("v", ("a(sv)", [("x", ("ai", [1, -1])), ("y", ("(yd)", (7, 0.5)))]))

SEEDS = {
    "options": ("a{sv}", [{"b": ("b", True), "t": ("u", 5), "s": ("s", "text"), "ay": ("ay", b"bytes"),
                           "ao": ("ao", [DISK]), "a{oo}": ("a{oo}", {DISK: "/"}),
                           "a{sv}": ("a{sv}", {"b": ("b", False)})}]),
    "wrong-types": ("a{sv}", [{"b": ("s", "true"), "t": ("i", -1), "ao": ("as", ["x"]), "s": NESTED}]),
    "create-disk": ("sa{sv}", ["data", {"format": ("s", "raw"), "cluster-size": ("t", 65536)}]),
    "create-pool": ("ssa{sv}", ["main", "/srv/pool", {"create": ("b", True)}]),
    "attach": ("osa{sv}", [DISK, "root", {}]),
    "set-config": ("ays", [b"<domain/>", "application/xml"]),
    "preview": ("a{oo}a{sv}", [{DISK: DISK}, {}]),
    "variant": ("v", [NESTED]),
    "numbers": ("v", [("(ybnqiuxtdsog)", (1, True, -2, 3, -4, 5, -6, 7, 8.5, "s", "/o", "a{sv}"))]),
    "own-types": ("a(sa{sv})", [[("x", {"y": ("i", 1)})]]),
}


def main():
    os.makedirs(CORPUS, exist_ok=True)
    for name, (types, values) in SEEDS.items():
        known = types in SIGNATURES
        head = bytes([SIGNATURES.index(types)]) if known else bytes([OWN]) + types.encode() + b"\0"
        body = parse_signature(list(f"({types})")).serialise(tuple(values), 0, Endianness.little, [])
        with open(os.path.join(CORPUS, name), "wb") as f:
            f.write(head + body)


if __name__ == "__main__":
    main()
