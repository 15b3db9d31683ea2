"""The compiled data path: the same tests pass on it, annexd runs it, and it steps aside when a source has changed."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import compiled
from tests.support.annexd import Annexd

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def up_to_date() -> None:
    # The set-up has compiled it; this does so again only if a file was edited since.
    subprocess.run([sys.executable, ROOT / "scripts/compile.py"], check=True, timeout=110)


@pytest.mark.long
@pytest.mark.parametrize("folder", ["tests/unit/scsi", "tests/unit/backends"])
def test_the_unit_tests_pass_on_the_compiled_modules(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        cwd=ROOT,
        env={**os.environ, "ANNEX_TEST_COMPILED": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    closing = re.search(r"(\d+) passed in ", done.stdout)
    assert closing
    assert int(closing[1]) > 1000


def test_a_class_that_derives_from_a_compiled_one_is_compiled_too() -> None:
    manifest = compiled.usable(ROOT)
    assert manifest is not None
    classes = {
        path: [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.ClassDef)]
        for folder in ("scsi", "backends", "daemon", "tests")
        for path in (str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob("*.py"))
    }
    names = {node.name for path in manifest.sources for node in classes[path]}
    assert "MirroredWrite" in names
    for path in set(classes) - set(manifest.sources):
        for node in classes[path]:
            assert not names & {base.id for base in node.bases if isinstance(base, ast.Name)}, f"{path}: {node.name}"


def extensions_of(pid: int) -> set[str]:
    return set(re.findall(r"\S+/build/compiled/(\S+)", Path(f"/proc/{pid}/maps").read_text()))


@pytest.mark.interop
def test_annexd_runs_the_compiled_modules(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    with Annexd(tmp_path, ("--local", disk)) as daemon:
        loaded = extensions_of(daemon.pid)
    names = compiled.usable(ROOT)
    assert names is not None
    assert {file for file in names.modules.values() if "/session" in file or "logical_unit" in file} <= loaded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one source and a manifest that fits it."""
    (tmp_path / "one.py").write_text("ONE = 1\n")
    folder = tmp_path / compiled.FOLDER
    folder.mkdir(parents=True)
    manifest = json.loads((ROOT / compiled.FOLDER / compiled.MANIFEST).read_bytes())
    manifest["sources"] = {"one.py": compiled.digest(tmp_path / "one.py")}
    (folder / compiled.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


def test_a_changed_source_puts_the_compiled_modules_aside(tree: Path) -> None:
    assert compiled.usable(tree) is not None
    (tree / "one.py").write_text("ONE = 2\n")
    assert compiled.usable(tree) is None


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        lambda folder: (folder / compiled.MANIFEST).write_bytes(b"{"),
        lambda folder: (folder / compiled.MANIFEST).write_bytes(b"[]"),
        lambda folder: (folder / compiled.MANIFEST).write_bytes(b'{"suffix": ".so", "sources": {}, "modules": {}}'),
    ],
    ids=["missing", "cut off", "something else", "for another Python"],
)
def test_a_folder_that_can_not_be_used_is_left_alone(tree: Path, damage: object) -> None:
    assert callable(damage)
    damage(tree / compiled.FOLDER)
    assert compiled.usable(tree) is None


def test_the_switch_keeps_them_out(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setenv(compiled.SWITCH, "1")
    assert not compiled.use(tree)
    assert not compiled.in_use()
    monkeypatch.delenv(compiled.SWITCH)
    assert compiled.use(tree)
    assert compiled.in_use()
