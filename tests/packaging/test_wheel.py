"""The wheel puts annex in <prefix>/lib/annex and <prefix>/bin, and not one importable name in site-packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("backends", "config", "daemon", "scsi")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # hatchling directly, and not through pip: no isolated build environment, so nothing is downloaded.
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def prefix(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel in it, and with the dependencies that .venv has.

    A .pth file lends it .venv's site-packages: the versions under test, without a network.
    """
    folder = tmp_path_factory.mktemp("prefix") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            folder / "bin" / "python",
            "install",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    site_packages = next(folder.glob("lib/python3.*/site-packages"))
    ours = next(Path(sys.prefix).glob("lib/python3.*/site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{ours}\n")
    return folder


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_has_nothing_for_site_packages_but_its_metadata(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in names(wheel)}
    assert {top.rsplit(".", 1)[1] for top in tops} == {"data", "dist-info"}
    schemes = {name.split("/")[1] for name in names(wheel) if name.split("/")[0].endswith(".data")}
    assert schemes == {"data", "scripts"}


def test_wheel_has_every_module_of_the_tree_and_nothing_else(wheel: Path) -> None:
    marker = "/data/lib/annex/"
    shipped = {name.split(marker)[1] for name in names(wheel) if marker in name}
    tree = {"__main__.py"}
    for package in PACKAGES:
        tree |= {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert shipped == tree


def test_wheel_has_what_prometheus_and_grafana_read(wheel: Path) -> None:
    marker = "/data/share/annex/monitoring/"
    shipped = {name.split(marker)[1] for name in names(wheel) if marker in name}
    assert shipped == {path.name for path in (ROOT / "monitoring").iterdir()} != set()


def test_installed_wheel_adds_no_importable_name(prefix: Path) -> None:
    site_packages = next(prefix.glob("lib/python3.*/site-packages"))
    added = {path.name for path in site_packages.iterdir() if "dist-info" not in path.name}
    assert added == {"dependencies.pth"}
    for package in PACKAGES:
        found = subprocess.run([prefix / "bin" / "python", "-I", "-c", f"import {package}"], capture_output=True)
        assert found.returncode == 1, package


@pytest.mark.parametrize("program", ["annexcli", "annexd", "annexhost"])
def test_installed_program_says_its_version_and_its_usage(prefix: Path, tmp_path: Path, program: str) -> None:
    # From another directory, with a trap in it: nothing of where it is started may be imported.
    (tmp_path / "config.py").write_text("raise SystemExit('imported from the current directory')")
    launcher = prefix / "bin" / program
    version = subprocess.run([launcher, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{program} 0.1.0\n", "")
    usage = subprocess.run([launcher, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert usage.returncode == 0
    assert usage.stdout.startswith(f"usage: {program}")


@pytest.mark.parametrize("program", ["annexcli", "annexd", "annexhost"])
def test_program_starts_from_the_checkout(tmp_path: Path, program: str) -> None:
    launcher = ROOT / "bin" / program
    version = subprocess.run([launcher, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{program} 0.1.0\n", "")


def test_annexd_is_what_python_runs_in_the_root_of_the_checkout() -> None:
    version = subprocess.run(
        [sys.executable, "-I", ".", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (version.returncode, version.stdout, version.stderr) == (0, "annexd 0.1.0\n", "")
