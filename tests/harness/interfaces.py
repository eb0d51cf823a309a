# SPDX-License-Identifier: MIT
"""The D-Bus interfaces as XML tells of them: the files in daemon/interfaces, or what a daemon says they
are."""
import dataclasses
import glob
import os
import re
import xml.etree.ElementTree as ET

DIRECTORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../daemon/interfaces"))
PREFIX = "org.volchain1."

# What stands for each interface: the beginning of its objects' paths.
KINDS = ["pool", "disk", "volume", "vm", "snapshot", "export", "backup", "schedule", "job"]


@dataclasses.dataclass
class Member:
    """A method, signal or property. `doc` is the comment before it, which takes no part in comparisons."""
    name: str
    arguments: list  # (name, type, direction); of a property: ("", type, access)
    annotations: dict
    doc: str = dataclasses.field(default="", compare=False)

    @property
    def signature(self):
        return "".join(type for _, type, direction in self.arguments if direction == "in")

    @property
    def inputs(self):
        return [(name, type) for name, type, direction in self.arguments if direction == "in"]

    @property
    def options(self):
        """The options that the comment names: {name: type}."""
        part = re.search(r"@options:(.*?)(?=\n\s*@|\n\s*Errors\b|\n\s*Needs\b|\Z)", self.doc, re.S)
        one = r"\b([a-z][a-z0-9-]*) \(([ybnqiuxtdsogav(){}]+)(?:, default [^)]*)?\)"
        return dict(re.findall(one, part.group(1) if part else ""))


@dataclasses.dataclass
class Interface:
    name: str
    methods: dict
    signals: dict
    properties: dict
    doc: str = dataclasses.field(default="", compare=False)

    @property
    def short(self):
        return self.name.removeprefix(PREFIX)


def _member(element, doc):
    if element.tag == "property":
        arguments = [("", element.get("type"), element.get("access"))]
    else:
        default = "in" if element.tag == "method" else "out"
        arguments = [(a.get("name"), a.get("type"), a.get("direction", default)) for a in element.iter("arg")]
    annotations = {a.get("name"): a.get("value") for a in element.findall("annotation")}
    return Member(element.get("name"), arguments, annotations, doc)


def parse(text):
    """{name: Interface} of an XML document."""
    root = ET.fromstring(text, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    found, doc = {}, ""
    for element in root:
        if element.tag is ET.Comment:
            doc = element.text
        elif element.tag == "interface":
            interface = Interface(element.get("name"), {}, {}, {}, doc.strip())
            groups = {"method": interface.methods, "signal": interface.signals,
                      "property": interface.properties}
            doc = ""
            for child in element:
                if child.tag is ET.Comment:
                    doc = child.text.strip()
                elif child.tag in groups:
                    groups[child.tag][child.get("name")] = _member(child, doc)
                    doc = ""
            found[interface.name] = interface
            doc = ""
    return found


def declared():
    """All of ours, as their files say."""
    all_of_them = {}
    for path in sorted(glob.glob(f"{DIRECTORY}/*.xml")):
        with open(path) as f:
            found = parse(f.read())
        assert list(found) == [os.path.basename(path).removesuffix(".xml")], f"{path} declares {list(found)}"
        all_of_them.update(found)
    return all_of_them


def name_of(kind):
    """The interface of a kind of object: "vm" -> "org.volchain1.VM"."""
    return PREFIX + ("VM" if kind == "vm" else kind.capitalize())
