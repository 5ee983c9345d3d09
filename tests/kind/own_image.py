"""The image of the tests' own nodes, as tests/cluster puts it together of the machine's files."""

import re

from tools import ROOT

SOURCE = ROOT / "tests/cluster/src"


def found(pattern, path="images.rs", within=None):
    text = within or (SOURCE / path).read_text()
    match = re.search(pattern, text, re.M | re.S)
    assert match, f"tests/cluster/src/{path} says it in another way than {pattern!r}: read it anew here"
    return match.group(1)


def spillway():
    """The function that makes it."""
    return found(r"^((?:pub )?fn spillway\(.*?^})")


def name():
    """Its name and one of its tags."""
    repository = found(r'format!\("([\w/.-]+):\{tag\}"\)', within=spillway())
    return repository + ":" + found(r'const TAGS: .*?= \["([\w-]+)"')


def user():
    return found(r'^const USER: &str = "(.*?)";')


def path():
    return found(r'"PATH=([^"]+)"', "image.rs")


def programs():
    return re.findall(r'"([^"]+)"', found(r"for program in \[(.*?)\]", within=spillway()))


def folder():
    return found(r'format!\("([^"]+)\{program\}"\)', within=spillway())


def labels():
    """Those that don't depend on what is built."""
    pairs = re.findall(r'labels\s*\.insert\(\s*"([^"]+)"\.into\(\),\s*"([^"]+)"\.into\(\)\)', spillway())
    assert pairs
    return dict(pairs)


def has_entrypoint():
    return "entrypoint" in spillway()
