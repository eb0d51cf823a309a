#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds the manual pages against what they are about, in both directions:

    volchainctl(1)      every verb and option of the program's own table (--help --json=short)
    volchaind(8)        the options that the program knows, the polkit actions
    volchain.toml(5)    every key of config/volchain.toml, with its default
    org.volchain1(5)    every member of daemon/interfaces/*.xml with its types, the options of methods, every error name

and has mandoc look at how they are written. Argument: the build directory.
"""
import glob
import json
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
problems = []


def expect(page, wanted, text):
    if wanted not in text:
        problems.append(f"{page} does not have '{wanted}'")


def same(page, what, documented, real):
    problems.extend(f"{page}: {what} {name} is not described" for name in sorted(set(real) - set(documented)))
    problems.extend(f"{page}: there is no {what} {name}" for name in sorted(set(documented) - set(real)))


def read(path):
    with open(os.path.join(ROOT, path)) as f:
        return f.read()


def output(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def sections(text, mark):
    """{title: text} of the parts that begin with such a heading."""
    parts = re.split(rf"^{mark} (.*)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


# --- volchainctl(1) ---
def check_client(build):
    page, text = "volchainctl(1)", read("client/volchainctl.1.scd")
    table = json.loads(output(os.path.join(build, "client/volchainctl"), "--help", "--json=short"))
    options, commands = (sections(text, "#")[title] for title in ("OPTIONS", "COMMANDS"))
    real = {f"--{o['name']}" if o["name"] else f"-{o['letter']}" for o in table["options"]}
    same(page, "option", {match for match in re.findall(r"^\*.*?\*(--[a-z-]+|-j)\*", "*" + options.replace("\n*", "\n**"), re.M)}
         - {"--"}, real)
    terms = re.findall(r"^\*([a-z -]+)\*(.*)\n((?:\n?\t.*\n)*)", commands, re.M)
    described = {name: (usage, body) for name, usage, body in terms}
    verbs = {f"{v['noun']} {v['verb']}".strip(): v for v in table["verbs"]}
    same(page, "verb", described, verbs)
    for name in sorted(set(verbs) & set(described)):
        check_verb(page, name, verbs[name], *described[name])


def check_verb(page, name, verb, usage, body):
    known = {o["name"]: o["value"] for o in verb["options"]}
    named = dict(re.findall(r"\*--([a-z0-9-]+)\*(=\S+)?", usage + body))
    same(page, f"option of '{name}'", {o for o in named if o in known or f"*--{o}*" in usage}, known)
    for option, value in known.items():
        words = "|".join(f"_{word}_" for word in value.removesuffix("...").split("|"))
        written = re.search(rf"\*--{option}\*(?:=([^\s\],]+))?", usage + body)
        if written and (written.group(1) or "") != (words if value else ""):
            problems.append(f"{page}: --{option} of '{name}' takes {value or 'nothing'}, not {written.group(1)}")
    words = re.findall(r"_([A-Z=]+)_", re.sub(r"\[?\*--.*", "", usage))
    wanted = [w.strip("[].") for w in verb["usage"].split()]
    if [w for w in words if w != "OPTIONS"] != wanted:
        problems.append(f"{page}: '{name}' takes {wanted}, not {words}")


# --- volchaind(8) ---
def check_daemon(build):
    page, text = "volchaind(8)", read("daemon/volchaind.8.scd")
    real = set(re.findall(r"(?<![\w-])--[a-z-]+", output(os.path.join(build, "daemon/volchaind"), "--help")))
    same(page, "option", set(re.findall(r"\*(--[a-z-]+)\*", sections(text, "#")["OPTIONS"])), real)
    actions = re.findall(r'<action id="([^"]+)"', read("systemd/org.volchain1.policy"))
    same(page, "action", set(re.findall(r"^\*(org\.volchain1\.[a-z-]+)\*$", text, re.M)), actions)


# --- volchain.toml(5) ---
def check_config():
    page, text = "volchain.toml(5)", sections(read("config/volchain.toml.5.scd"), "#")
    shipped = tomllib.loads(read("config/volchain.toml"))
    same(page, "section", {title for title in text if title.startswith("[")}, {f"[{s}]" for s in shipped})
    for section, keys in shipped.items():
        body = text.get(f"[{section}]", "")
        documented = {key: text if number == "" else int(number)
                      for key, text, number in re.findall(r'\*([a-z-]+)\* = (?:"([^"]*)"|(\d+))', body)}
        same(page, f"key in [{section}]", documented, keys)
        problems.extend(f"{page}: {section}.{key} is {value!r} by default, not {documented[key]!r}"
                        for key, value in keys.items() if documented.get(key, value) != value)


# --- org.volchain1(5) ---
def arguments(member, direction):
    return [f"_{a.get('type')} {a.get('name')}_" for a in member.iter("arg") if a.get("direction", "out") == direction]


def written_methods(interface):
    """How each method and signal stands in the page."""
    for method in interface.iter("method"):
        results = ", ".join(arguments(method, "out"))
        yield method.get("name"), f"*{method.get('name')}*({', '.join(arguments(method, 'in'))})" + (
            f" -> {results}" if results else "")
    for signal in interface.iter("signal"):
        yield signal.get("name"), f"*{signal.get('name')}*({', '.join(arguments(signal, 'out'))})"


def method_options(source):
    """(method, option, type) of what the comments call options."""
    for comment in re.findall(r"<!--(.*?)-->", source, re.S):
        head = re.match(r"\s*(\w+):", comment)
        options = re.search(r"@options:(.*?)(?=\n\s*@|\n\s*Errors|\Z)", comment, re.S)
        for name, kind in re.findall(r'(?<!")\b([a-z][a-z0-9-]*) \((ao|ay|[bostu])[,)]', options.group(1) if options else ""):
            yield head.group(1), name, kind


def check_interface(page, source, text):
    for name, line in written_methods(ElementTree.fromstring(source)):
        expect(page, f"\n{line}\n", text)
    methods = {m for m, _ in written_methods(ElementTree.fromstring(source))}
    same(page, "method or signal", set(re.findall(r"^\*(\w+)\*\(", text, re.M)), methods)
    real = {f"{p.get('name')} {p.get('type')}" for p in ElementTree.fromstring(source).iter("property")}
    written = re.findall(r"^\*\w+\* [a-z({].*$", text, re.M)
    same(page, "property", {f"{n} {t}" for line in written for n, t in re.findall(r"\*(\w+)\* ([^\s,]+)", line)}, real)
    bodies = dict(re.findall(r"^\*(\w+)\*\(.*\n((?:\t.*\n)*)", text, re.M))
    for method, option, kind in method_options(source):
        expect(f"{page}, {method}", f"*{option}* {kind}", " ".join(bodies.get(method, "").split()))


def check_bus():
    page = "org.volchain1(5)"
    parts = sections(read("daemon/org.volchain1.5.scd"), "#")
    described = sections(parts["INTERFACES"], "##")
    files = {os.path.basename(path)[:-4]: path for path in glob.glob(os.path.join(ROOT, "daemon/interfaces/*.xml"))}
    same(page, "interface", described, files)
    for name, path in files.items():
        check_interface(f"{page}, {name}", read(path), described.get(name, ""))
    names = re.findall(r'\{ErrorCode::\w+, "(\w+)"\}', read("lib/base/error.cpp"))
    standard = {"AccessDenied", "InteractiveAuthorizationRequired"}
    same(page, "error", set(re.findall(r"^\*(\w+)\*$", parts["ERRORS"], re.M)), set(names) - standard)
    for name in standard:
        expect(page, f"*org.freedesktop.DBus.Error.{name}*", parts["ERRORS"])


# --- how they are written ---
def check_form():
    for source in sorted(glob.glob(os.path.join(ROOT, "*/*.scd"))):
        with open(source) as f:
            page = subprocess.run(["scdoc"], stdin=f, check=True, capture_output=True, timeout=60).stdout
        found = subprocess.run(["mandoc", "-T", "lint", "-W", "warning"], input=page, capture_output=True, timeout=60)
        # scdoc puts a paragraph macro before everything, which mandoc finds needless after a heading.
        problems.extend(f"{os.path.relpath(source, ROOT)}: {line}" for line in found.stdout.decode().splitlines()
                        if "skipping paragraph macro" not in line)


def main():
    build = sys.argv[1]
    check_client(build)
    check_daemon(build)
    check_config()
    check_bus()
    check_form()
    print("\n".join(problems) if problems else "manual pages: ok")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
