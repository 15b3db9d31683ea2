"""Rules of the house that no linter knows."""

import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("backends", "config", "daemon", "scsi")


@cache
def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    # A file that is deleted but not yet committed so is still listed.
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def offences(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_tracked_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    # A checkout must work wherever it lies; /root, /home/NAME and /work are where a developer's happened to be.
    assert offences(re.compile(r"(?<![\w.$}~/-])/(root|home/\w+|work|Users)/")) == []


def test_no_tracked_file_names_a_package_registry() -> None:
    # Where packages come from is the setting of each machine's pip and apt. (Split, so as not to find this line.)
    hosts = ("py" + "pi.org", "python" + "hosted.org", "deb." + "debian.org", "registry." + "npmjs")
    assert offences(re.compile("|".join(map(re.escape, hosts)))) == []


@pytest.mark.parametrize("name", ["run", "host", "test", "build"])
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=[a-z])", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+ \\\n +--hash=sha256:[0-9a-f]{64}", entry), entry


def test_a_package_has_one_version_in_all_requirements() -> None:
    versions: dict[str, set[str]] = {}
    for path in (ROOT / "requirements").glob("*.txt"):
        for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), flags=re.MULTILINE):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_tests_are_no_package() -> None:
    # With an __init__.py, pytest's importlib mode and mypy would disagree on the names of the test modules.
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_every_folder_of_a_package_has_an_init() -> None:
    # Without one it is a namespace package, which import-linter does not look into.
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []


def test_no_package_of_ours_hides_one_that_we_use() -> None:
    # The root comes first on the import path: a folder named `iscsi` would take cython-iscsi's place, and so on.
    imported = set()
    for path in tracked_files():
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.split(".")[0])
                elif isinstance(node, ast.Import):
                    imported.update(alias.name.split(".")[0] for alias in node.names)
    roots = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in tracked_files() if path.suffix == ".py"}
    outside = imported - {*PACKAGES, "tests", "bench", "demo", "scripts"}
    assert outside & roots == set()


def test_scripts_are_executable_and_posix_sh_can_read_them() -> None:
    for name in (".ci/run", "test.sh", "demo.sh", "scripts/environment.sh"):
        script = ROOT / name
        if not script.exists():
            continue
        subprocess.run(["sh", "-n", script], check=True)
        assert name.startswith("scripts/") or os.access(script, os.X_OK), name


# --- Holes that others had, which a look at the source keeps shut (docs/conformance.md) ---


def _sources() -> list[tuple[Path, ast.Module]]:
    paths = [path for path in tracked_files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]
    return [(path, ast.parse(path.read_text())) for path in paths]


def test_v07_nothing_secret_is_compared_in_a_time_that_tells_of_it() -> None:
    secret = re.compile(r"secret|proof|token|password", re.IGNORECASE)

    def is_secret(node: ast.expr) -> bool:
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        return bool(secret.fullmatch(name.strip("_")))

    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in _sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        and any(is_secret(side) for side in (node.left, *node.comparators))
    ]
    assert found == []
    chap = (ROOT / "scsi" / "iscsi" / "chap.py").read_text()
    assert len(re.findall(r"hmac\.compare_digest\(response, ", chap)) == 2  # either role's check of the other's proof
    assert "response ==" not in chap


def test_v42_a_flush_is_fdatasync_or_fsync_and_nothing_less() -> None:
    # sync_file_range writes data and neither the size of the file nor the device's cache.
    weak = {"sync_file_range", "syncfs", "msync"}
    words = {
        word
        for _, tree in _sources()
        for node in ast.walk(tree)
        for word in (getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "value", ""))
        if isinstance(word, str)
    }
    assert {"fdatasync", "fsync"} <= words
    assert words & weak == set()
