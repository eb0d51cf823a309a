#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Finds what HACKING.md forbids in coroutines, where g++ 12 makes double frees of it: in one full expression with
co_await a capturing lambda, a braced list or aggregate, or `?:`. Also co_await in a catch block, detached coroutines,
and spawning past a task group.

It reads statements, not C++: comments and strings are removed, and a statement is what stands between ';', '{' and '}' at
the depth of its own parentheses. What it cannot tell it lets pass; ASan in the tests is the second net.
"""
import os
import re
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
DIRECTORIES = ["lib", "qmp", "systemd", "daemon", "client"]


def stripped(text):
    """The text with comments and literals blanked, line for line."""
    def blank(match):
        kept = match.group(0)
        return re.sub(r"[^\n]", " ", kept) if kept[0] == "/" else '""' + " " * (len(kept) - 2) if "\n" not in kept else \
            re.sub(r"[^\n]", " ", kept)
    return re.sub(r'//[^\n]*|/\*.*?\*/|R"\w*\(.*?\)\w*"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text, flags=re.S)


def full_expressions(text):
    """(line, text) of each expression statement that has a co_await; braces inside parentheses belong to it."""
    start, depth, braces = 0, 0, []
    for i, c in enumerate(text):
        if c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif c == "{":
            # A brace that follows an identifier, '(', ',' or '=' inside an expression opens a list.
            before = text[:i].rstrip()
            if depth > 0 or (before and (before[-1] in "=,(" or before.endswith("return"))):
                braces.append("list")
                depth += 1
            else:
                braces.append("block")
                start = i + 1
        elif c == "}":
            if braces and braces.pop() == "list":
                depth -= 1
            else:
                start, depth = i + 1, 0
        elif c == ";" and depth <= 0:
            yield text.count("\n", 0, start) + 1, text[start:i]
            start, depth = i + 1, 0


def problems_in(path):
    with open(path) as f:
        text = stripped(f.read())
    for line, statement in full_expressions(text):
        if "co_await" not in statement:
            continue
        # The head of an if, for or while is an expression of its own; its body comes with the next statement.
        line += len(statement) - len(statement.lstrip()) and statement[:len(statement) - len(statement.lstrip())].count("\n")
        if re.search(r"\[[^\[\]]*[&=\w][^\[\]]*\]\s*(\([^()]*\))?\s*(mutable)?\s*\{", statement) and "[[" not in statement:
            yield line, "capturing lambda beside co_await"
        elif re.search(r"[\w>(,=]\s*\{[^{}]", statement):
            yield line, "braced list or aggregate beside co_await"
        if re.search(r"[^?]\?[^?:]*:", statement.replace("::", "")):
            yield line, "?: beside co_await"
    # A block has a ';' before its end; braces without one are a list, wherever they stand.
    for match in re.finditer(r"\{[^{};]*\bco_await\b[^{};]*\}(?=\s*[;,)])", text):
        yield text.count("\n", 0, match.start()) + 1, "co_await in a braced list"
    for match in re.finditer(r"catch\s*\([^)]*\)\s*\{", text):
        depth, i = 1, match.end()
        while depth and i < len(text):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        if re.search(r"\bco_await\b|\bco_yield\b", text[match.end():i]):
            yield text.count("\n", 0, match.start()) + 1, "co_await in a catch block"
    for match in re.finditer(r"asio::detached|[,(]\s*detached\s*\)", text):
        yield text.count("\n", 0, match.start()) + 1, "detached swallows exceptions; use a TaskGroup"
    if not path.endswith(("task_group.cpp", "loop.cpp")):
        for match in re.finditer(r"\bco_spawn\b", text):
            yield text.count("\n", 0, match.start()) + 1, "co_spawn; use a TaskGroup"


def main():
    found = []
    for directory in DIRECTORIES:
        for base, _, names in os.walk(os.path.join(ROOT, directory)):
            for name in sorted(names):
                if name.endswith((".h", ".cpp")):
                    path = os.path.join(base, name)
                    found += [f"{os.path.relpath(path, ROOT)}:{line}: {what}" for line, what in problems_in(path)]
    print("\n".join(found) if found else "coroutines: ok")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
