#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds every #include against the layers. A directory's meson.build begins with

    # May be used by: ...
    # May use: lib/base, lib/async.

and those lines are the rule: a file may include headers of its own directory and of what its "May use" names. Tests may
include anything.
"""
import os
import re
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
LAYERS = ["lib/base", "lib/async", "lib/qcow2", "lib/storage", "qmp", "systemd", "daemon", "client"]
# How a header of a directory is written in an #include.
PREFIX = {layer: layer.removeprefix("lib/") + "/" for layer in LAYERS}


def rule(layer, head):
    """The directories that a layer may use, from the first lines of its meson.build."""
    match = re.search(r"^# May use: (.*)\.$|^# May not use: anything else of the project\.$", head, re.M)
    if not match:
        raise SystemExit(f"{layer}/meson.build does not begin with 'May be used by / May use'")
    text = match.group(1) or ""
    if text.startswith("everything but "):
        left_out = text.removeprefix("everything but ").split(", ")
        return [other for other in LAYERS if other != layer and other not in left_out]
    return [other for other in text.split(", ") if other]


def includes(path):
    with open(path) as f:
        for number, line in enumerate(f, 1):
            if match := re.match(r'\s*#\s*include\s+"([^"]+)"', line):
                yield number, match.group(1)


def sources(directory):
    return sorted(os.path.join(room, name) for room, _, names in os.walk(directory) for name in names
                  if name.endswith((".h", ".cpp")))


def main():
    problems = []
    for layer in LAYERS:
        with open(os.path.join(ROOT, layer, "meson.build")) as f:
            allowed = rule(layer, f.read(400))
        unknown = [other for other in allowed if other not in LAYERS]
        if unknown:
            problems.append(f"{layer}/meson.build: unknown {unknown}")
        for path in sources(os.path.join(ROOT, layer)):
            name = os.path.relpath(path, os.path.join(ROOT, layer))
            for number, header in includes(path):
                owner = [other for other in LAYERS if header.startswith(PREFIX[other])]
                if not owner:
                    problems.append(f"{layer}/{name}:{number}: {header}: own headers are included by their directory")
                elif owner[0] != layer and owner[0] not in allowed:
                    problems.append(f"{layer}/{name}:{number}: {layer} may not use {owner[0]} ({header})")
    print("\n".join(problems) if problems else "layering: ok")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
