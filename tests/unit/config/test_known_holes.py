"""What other targets got wrong in their services (V37, V38 of the list of known holes), as gates over the whole tree.

V34, V35 and V36 are in test_save.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config import checks, model
from config.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = [
    path
    for folder in ("backends", "bin", "config", "daemon", "scsi")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix == ".py" or path.parent.name == "bin"
]
# What makes code of data, or opens a door for debugging.
CODE_OF_DATA = {"eval", "exec", "compile", "__import__", "breakpoint"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "yaml", "code", "pdb", "cgi", "xmlrpc", "jsonpickle"}


def names_used(path: Path) -> tuple[set[str], set[str]]:
    """Give the builtins that a file calls, and the modules that it imports."""
    called, imported = set(), set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
        elif isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    return called, imported


def test_the_gates_look_at_the_tree() -> None:
    assert len(SHIPPED) > 100


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_v37_nothing_that_comes_in_is_ever_run(path: Path) -> None:
    called, imported = names_used(path)
    assert not called & CODE_OF_DATA
    assert not imported & MODULES


def test_v37_nothing_turns_debugging_on() -> None:
    wanted = re.compile(rb"debug\s*=(?!=)|set_debug|debugtoolbar|debugpy|PYTHONASYNCIODEBUG|manhole|InteractiveConsole")
    assert [path.name for path in SHIPPED if wanted.search(path.read_bytes())] == []


def structs() -> list[type[msgspec.Struct]]:
    found = [model.Entry]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == model.__name__]


def test_v38_no_secret_has_a_default() -> None:
    named = {}
    for kind in structs():
        for field in msgspec.structs.fields(kind):
            if re.search("secret|password|token|credential|key$", field.name):
                named[f"{kind.__name__}.{field.name}"] = field.default
    assert named == {
        "Chap.secret": "",
        "Chap.credential": None,
        "ControlTcp.key": msgspec.NODEFAULT,
        "ControlTcp.token_file": msgspec.NODEFAULT,
    }


def test_v38_nothing_is_open_by_default() -> None:
    config = model.Config(version=model.VERSION, state_directory="/s")
    assert (config.targets, config.control, config.metrics) == ([], None, None)
    assert model.Control().tcp is None
    assert (model.Control().admin_groups, model.Control().reader_groups) == ([], [])
    assert model.Target(name="t", portals=[], luns=[]).anyone is None


def with_secret(holder: str, secret: str) -> model.Config:
    chap: Any = model.Chap(name="admin", secret=secret)
    config = model.Config(version=model.VERSION, state_directory="/s")
    if holder == "discovery":
        config.discovery = model.Discovery(chap=chap)
    else:
        acl = model.Acl(initiator="iqn.2026-11.org.example:h", **{holder: chap})
        if holder == "mutual_chap":
            acl.chap = model.Chap(name="host", secret="twelve bytes or more")
        config.targets = [model.Target(name="iqn.2026-11.org.example:t", portals=["127.0.0.1"], luns=[], acls=[acl])]
    return config


@pytest.mark.parametrize("secret", ["", "admin", "changeme", "password", "secret", "target"])
@pytest.mark.parametrize("holder", ["discovery", "chap", "mutual_chap"])
def test_v38_secrets_that_anyone_would_try_are_refused(holder: str, secret: str) -> None:
    with pytest.raises(ConfigError, match="is not 12 to 256 bytes long"):
        checks.check(with_secret(holder, secret))


@pytest.mark.parametrize("holder", ["discovery", "chap", "mutual_chap"])
def test_v38_a_long_secret_is_taken(holder: str) -> None:
    checks.check(with_secret(holder, "6wN2-qKp9-xT4v"))
