"""The commands of README.md and docs/*.md do what the pages say, with real programs and a real array.

Those of docs/install.md are run by tests/packaging/test_install_page.py; tests/unit/test_pages.py looks for any that
nothing runs. What they name is put into a temporary folder, on free ports, and onto an array that is tgt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.annexd import ROOT
from tests.support.console import Command, File, Shell, steps
from tests.support.ports import free_port
from tests.support.tgt import Tgt

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_WITH_ARRAY = {"tutorial.md", "annexhost.md"}
MOVED = "tutorial.md"  # ends with the array's volume on the new disk
VOLUME, VOLUME_BYTES = "volume.img", 64 << 20
IN_A_MACHINE = "install.md"
LONG = dict.fromkeys(("pairs.md", "troubleshooting.md"), pytest.mark.long)  # what is lost there is waited for
RUN = [
    page
    for page in PAGES
    if page.name != IN_A_MACHINE and any(isinstance(step, Command) for step in steps(page.read_text()))
]


@pytest.fixture
def array(tmp_path: Path) -> Iterator[Tgt]:
    """The old array, with a volume as LUN 1."""
    volume = tmp_path / VOLUME
    volume.write_bytes(os.urandom(VOLUME_BYTES))
    with Tgt(tmp_path) as tgt:
        tgt.add_lun(tgt.add_target("iqn.2019-04.org.example:old-array"), volume)
        yield tgt


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=LONG.get(page.name, ())) for page in RUN])
def test_a_page_does_what_it_says(tmp_path: Path, page: Path, request: pytest.FixtureRequest) -> None:
    array_port = request.getfixturevalue("array").port if page.name in RUN_WITH_ARRAY else free_port()
    port = free_port()
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(2 * VOLUME_BYTES)
    places = {
        "127.0.0.1:3260": f"127.0.0.1:{port}",
        '"port": 3260': f'"port": {port}',
        "127.0.0.1:3261": f"127.0.0.1:{free_port()}",
        "192.0.2.1:3260": f"127.0.0.1:{port}",
        "192.0.2.7:3260": f"127.0.0.1:{array_port}",
        "/dev/disk/by-id/wwn-0x5000c500a1b2c3d4": str(disk),
        "/etc/annex": f"{tmp_path}/etc",
        "/srv": f"{tmp_path}/srv",
        "/var/lib/annex": f"{tmp_path}/var",
        "/run/annex": str(tmp_path),
        "$ annexcli --host": "$ annexcli --host",
        "$ annexcli ": f"$ annexcli --socket {tmp_path}/control.sock ",
    }
    for folder in ("etc", "srv"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin").symlink_to(ROOT / "bin")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
    }
    with Shell(tmp_path, environment) as shell:
        for step in steps(_placed(page.read_text(), places)):
            if isinstance(step, File):
                path = tmp_path / step.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.content)
                path.chmod(0o600)
            else:
                shell.run(step)
    if page.name == MOVED:
        moved = disk.read_bytes()
        assert moved[:VOLUME_BYTES] == (tmp_path / VOLUME).read_bytes()
        assert not any(moved[VOLUME_BYTES:])


def _placed(text: str, places: dict[str, str]) -> str:
    pattern = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(pattern, lambda match: places[match[0]], text)
