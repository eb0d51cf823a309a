# SPDX-License-Identifier: MIT
"""Images, looked at from outside: with qemu-img, never with the project's own code."""
import json
import os
import subprocess

from harness import digest as digest_of


def run(*argv, **options):
    result = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120, **options)
    if result.returncode:
        raise RuntimeError(f"{' '.join(map(str, argv))} -> {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def create(path, size, backing=None, backing_format="qcow2", fmt="qcow2", options=None):
    argv = ["qemu-img", "create", "-q", "-f", fmt]
    if backing:
        argv += ["-b", backing, "-F", backing_format]
    if options:
        argv += ["-o", options]
    run(*argv, path, *([] if size is None else [size]))
    return str(path)


def create_encrypted(path, size, attempts=20):
    """LUKS. QEMU measures how fast the machine is, and gives up where the clock of its CPU time stood still meanwhile."""
    for attempt in range(1, attempts + 1):
        try:
            run("qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x",
                "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, size)
            return str(path)
        except RuntimeError as error:
            if attempt == attempts or "accurate CPU usage" not in str(error):
                raise


def write(path, pattern, offset, length, fmt="qcow2"):
    run("qemu-io", "-f", fmt, "-c", f"write -P {pattern} {offset} {length}", path)


def info(path):
    return json.loads(run("qemu-img", "info", "-U", "--output=json", path))


def check(path):
    """Clean, or an error: no leak, no corruption."""
    run("qemu-img", "check", "-q", "-U", "-f", "qcow2", path)


def check_after_crash(path):
    """No corruption. A QEMU that was killed may have left clusters that nobody uses."""
    status = subprocess.run(["qemu-img", "check", "-q", "-U", "-f", "qcow2", path], capture_output=True, timeout=120).returncode
    assert status in (0, 3), f"qemu-img check of {path} ends with {status}"


def digest(path, fmt="qcow2"):
    """Of the content as a guest sees it through the chain."""
    raw = str(path) + ".digest.raw"
    try:
        run("qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", path, raw)
        return digest_of.of_file(raw)
    finally:
        if os.path.exists(raw):
            os.unlink(raw)


def content(path, fmt="qcow2"):
    """The bytes that a guest sees through the chain."""
    raw = str(path) + ".content.raw"
    try:
        run("qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", path, raw)
        with open(raw, "rb") as f:
            return f.read()
    finally:
        if os.path.exists(raw):
            os.unlink(raw)


def chain(path):
    """File names from the top down, as the headers say."""
    return [layer["filename"] for layer in
            json.loads(run("qemu-img", "info", "-U", "--backing-chain", "--output=json", path))]


def bitmaps(path):
    found = info(path).get("format-specific", {}).get("data", {}).get("bitmaps", [])
    return {b["name"]: b for b in found}


def image_files(directory):
    """What lies in a directory, without what is volchain's own."""
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))
