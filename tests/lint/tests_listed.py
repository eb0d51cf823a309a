#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A test that meson does not know is never run: each file of pytest tests is in the list of tests/meson.build."""
import glob
import os
import sys

# Run by tests/service/run in a machine of its own.
ELSEWHERE = "service/test_service.py"
TESTS = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))


def main():
    with open(os.path.join(TESTS, "meson.build")) as f:
        listed = f.read()
    paths = sorted(os.path.relpath(path, TESTS) for path in glob.glob(f"{TESTS}/*/test_*.py"))
    suites = [os.path.splitext(path)[0].split(os.sep) for path in paths if path != ELSEWHERE]
    missing = [os.path.join(suite, name) for suite, name in suites if f"['{suite}', '{name}', " not in listed]
    print("\n".join(f"tests/{name}.py is not in tests/meson.build" for name in missing) if missing else "tests listed: ok")
    return bool(missing)


if __name__ == "__main__":
    sys.exit(main())
