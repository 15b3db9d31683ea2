"""`make install` into a folder, as a package is made; and what systemd thinks of the units.

tests/packaging/test_service.py installs into a machine that runs.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from daemon import compiled, main

ROOT = Path(__file__).resolve().parents[2]
MOST_EXPOSURE = 2.0  # of 10; systemd's own services are between 2 and 9


def test_the_service_is_exposed_to_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(ROOT / "systemd/annexd.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    exposure = re.search(r"Overall exposure level for annexd\.service: (\d+\.\d+)", done.stdout)
    assert exposure
    assert float(exposure[1]) <= MOST_EXPOSURE


def test_the_service_is_tried_again_unless_that_is_in_vain() -> None:
    unit = dict(
        line.split("=", 1) for line in (ROOT / "systemd/annexd.service").read_text().splitlines() if "=" in line
    )
    assert unit["Restart"] == "on-failure"
    assert unit["RestartPreventExitStatus"] == str(main.EXIT_UNUSABLE)
    assert main.EXIT_TRY_AGAIN not in {0, main.EXIT_UNUSABLE}
    # All the tries must fit into the interval, or systemd would go on for ever.
    assert int(unit["StartLimitBurst"]) * int(unit["RestartSec"]) < int(unit["StartLimitIntervalSec"])


def make(target: str, folder: Path, prefix: str = "/usr") -> subprocess.CompletedProcess[str]:
    command = ["make", target, f"DESTDIR={folder}", f"prefix={prefix}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with annex installed in it, twice, under the prefix /usr."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "usr/bin").mkdir(parents=True)
    for _ in range(2):
        done = make("install", folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


# The first time the dependencies are fetched and built.
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
class TestInstalledInAFolder:
    def test_the_tree_is_complete_and_has_what_it_stands_on(self, folder: Path, tmp_path: Path) -> None:
        tree = folder / "usr/lib/annex"
        for package in ("backends", "config", "daemon", "scsi"):
            theirs = {path.relative_to(tree) for path in (tree / package).rglob("*.py")}
            assert theirs == {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert compiled.usable(tree) is not None
        names = (
            "aiohttp, configshell_fb, crc32c, cysystemd, iscsi, msgspec, prometheus_client, pyscsi, rich, sgio, uvloop"
        )
        python = tree / "venv/bin/python"
        subprocess.run([python, "-I", "-c", f"import {names}"], cwd=tmp_path, check=True, timeout=60)
        absent = subprocess.run([python, "-I", "-c", "import tests"], cwd=tmp_path, capture_output=True, timeout=60)
        assert absent.returncode == 1

    @pytest.mark.parametrize("program", ["annexd", "annexhost"])
    def test_the_launchers_run_on_the_venv_and_write_nothing(self, folder: Path, tmp_path: Path, program: str) -> None:
        before = sorted(path for path in folder.rglob("*"))
        done = subprocess.run(
            [folder / "usr/bin" / program, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(path for path in folder.rglob("*")) == before

    def test_no_file_says_where_it_was_made(self, folder: Path) -> None:
        places = [str(folder), str(ROOT)]
        found = [
            path
            for path in (folder / "usr").rglob("*")
            if path.is_file() and not path.is_symlink() and path.suffix != ".so"
            if any(place.encode() in path.read_bytes() for place in places)
        ]
        assert found == []

    def test_what_prometheus_and_grafana_read_is_there(self, folder: Path) -> None:
        installed = {path.name: path.read_bytes() for path in (folder / "usr/share/annex/monitoring").iterdir()}
        assert installed == {path.name: path.read_bytes() for path in (ROOT / "monitoring").iterdir()}
        assert "annex.rules.yml" in installed

    def test_the_units_have_the_prefix(self, folder: Path) -> None:
        unit = (folder / "usr/lib/systemd/system/annexd.service").read_text()
        assert "ExecStart=/usr/lib/annex/venv/bin/python -I /usr/lib/annex serve" in unit
        assert "/usr/local" not in unit

    def test_everybody_may_read_it_and_nobody_write(self, folder: Path) -> None:
        for path in (folder / "usr").rglob("*"):
            if not path.is_symlink():
                mode = path.stat().st_mode
                assert mode & 0o022 == 0, path
                assert mode & 0o044 == 0o044, path
                assert os.access(path, os.X_OK) or not path.is_dir(), path

    def test_uninstall_takes_all_of_it_away_and_no_more(self, folder: Path) -> None:
        other = folder / "usr/lib/systemd/system/other.service"
        other.write_text("")
        assert make("uninstall", folder).returncode == 0
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        kept = {"usr", "usr/bin", "usr/lib", "usr/lib/systemd", "usr/lib/systemd/system"}
        assert left == kept | {"usr/lib/systemd/system/other.service"}
        again = make("uninstall", folder)
        assert again.returncode != 0
        assert "nothing is installed" in again.stderr
