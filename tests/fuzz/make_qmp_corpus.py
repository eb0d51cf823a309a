#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes the inputs that the qmp and agent fuzzers begin with: tests/fuzz/corpus/qmp and agent.

The answers are those of a real QEMU with a chain by -blockdev, one by -drive, and a filter; its directory is
renamed, so that making the corpus again changes little. Of the schema only the commands that are asked about
are kept. What an agent says is written down here. Inputs that a fuzzer found are named found-* and are left
alone.
"""
import json
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import chains  # noqa: E402
from harness.qemu import Qemu  # noqa: E402

STREAM, GRAPH, SCHEMA, COMMAND_LINE = (bytes([number]) for number in range(4))


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def record(directory):
    """Inputs by name, from a QEMU with three disks."""
    named = chains.make_chain(directory, "named", 3, base_format="raw")
    legacy = chains.make_chain(directory, "legacy", 2)
    single = chains.make_chain(directory, "single", 1)
    throttled = [
        {"driver": "qcow2", "node-name": "n",
         "file": {"driver": "file", "node-name": "nf", "filename": single[0]}},
        {"driver": "throttle", "node-name": "t", "throttle-group": "g", "file": "n"}]
    disks = [named[-1], {"path": legacy[-1], "drive": True},
             {"path": single[0], "blockdevs": throttled, "node": "t"}]
    qemu = Qemu(f"{directory}/vm", disks, extra=["-object", "throttle-group,id=g"]).start()
    try:
        qemu.execute("block-dirty-bitmap-add", node="vol0", name="checkpoint", persistent=True)
        answers = {
            "nodes": qemu.execute("query-named-block-nodes", flat=True),
            "edges": qemu.execute("x-debug-query-block-graph"),
            "devices": qemu.execute("query-block"),
        }
        schema = qemu.execute("query-qmp-schema")
        return {
            "graph": GRAPH + compact(answers).encode(),
            "graph-nodes-only": GRAPH + compact({"nodes": answers["nodes"]}).encode(),
            "schema-asked": SCHEMA + compact(ASKED_SCHEMA).encode(),
            "schema": SCHEMA + compact(needed(schema, ["blockdev-snapshot", "job-cancel", "STOP"])).encode(),
            "command-line": COMMAND_LINE + "\0".join(["vol0"] + qemu.argv).encode(),
        }
    finally:
        qemu.kill()


def needed(schema, names):
    """The entries of these commands and events, and of the types that they are made of."""
    entries = {entry["name"]: entry for entry in schema}
    kept, wanted = {}, list(names)
    while wanted:
        name = wanted.pop()
        entry = entries.get(name)
        if entry is None or name in kept:
            continue
        kept[name] = entry
        wanted += [value for key, value in entry.items() if key.endswith("-type") and isinstance(value, str)]
        wanted += [part["type"] for part in entry.get("members", []) + entry.get("variants", [])
                   if isinstance(part, dict) and "type" in part]
    return list(kept.values())


# A command "c" with what the fuzzer asks about.
ASKED_SCHEMA = [
    {"name": "c", "meta-type": "command", "arg-type": "1", "ret-type": "1", "features": ["f"]},
    {"name": "c", "meta-type": "event", "arg-type": "1"},
    {"name": "1", "meta-type": "object",
     "members": [{"name": "a", "type": "2"}, {"name": "d", "type": "4", "default": None}], "tag": "a",
     "variants": [{"case": "v", "type": "3"}]},
    {"name": "2", "meta-type": "enum", "values": ["v"], "members": [{"name": "v"}]},
    {"name": "3", "meta-type": "object", "members": [{"name": "b", "type": "1"}]},
    {"name": "4", "meta-type": "array", "element-type": "3"},
    {"name": "5", "meta-type": "alternate", "members": [{"type": "1"}, {"type": "2"}]},
]

STREAMS = {
    "stream": [
        '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, '
        '"capabilities": ["oob"]}}',
        '{"return": {}, "id": 1}',
        '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}',
        '{"timestamp": {"seconds": 1, "microseconds": 3}, "event": "JOB_STATUS_CHANGE", '
        '"data": {"status": "ready", "id": "j"}}',
        '{"error": {"class": "GenericError", "desc": "no"}, "id": 2}'],
    "stream-nonsense": ['[]', '{"return": 1}', '{"event": 3}', '{"error": "x", "id": "y"}', '', '\x00'],
}

AGENT = {
    "answer": b'{"return": {}}\n',
    "synchronised": b'\xff{"return": 7}\n',
    "other-number": b'\xff{"return": 8}\n',
    "late": b'{"return": 3}\n\xff{"return": 7}\n',
    "refused": b'{"error": {"class": "GenericError", "desc": "failed to freeze /: no"}}\n',
    "both": b'{"return": 1, "error": {}}\n',
    "junk": b'\x00\x01\xff\xff{"return"\n\xff{"return": 7}\n'
            b'{"return": {"version": "7.2", "supported_commands": []}}\n',
    "overlong": b'{"return": "' + b'x' * 80 + b'"}\n{"return": 1}\n',
}


def keep(directory, inputs):
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    for name, data in inputs.items():
        (directory / name).write_bytes(data)


def main():
    directory = tempfile.mkdtemp(prefix="vc-")
    try:
        recorded = record(directory)
        inputs = {name: data.replace(directory.encode(), b"/pool") for name, data in recorded.items()}
    finally:
        shutil.rmtree(directory)
    for name, lines in STREAMS.items():
        inputs[name] = STREAM + "".join(line + "\r\n" for line in lines).encode()
    keep(HERE / "corpus/qmp", inputs)
    keep(HERE / "corpus/agent", AGENT)


if __name__ == "__main__":
    main()
