"""The commands of README.md and docs/*.md do what the pages say, with real programs and a real array.

What they name is put into a temporary folder, on free ports, and onto an array that is tgt.
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

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_WITH_ARRAY = {"tutorial.md", "annexhost.md"}
MOVED = "tutorial.md"  # ends with the array's volume on the new disk
VOLUME, VOLUME_BYTES = "volume.img", 64 << 20
RUN = [page for page in PAGES if any(isinstance(step, Command) for step in steps(page.read_text()))]

SERVICE = "is for a machine with systemd: tests/packaging/test_service.py does this in one of its own"
KERNEL = "is for the kernel's initiator, which not every machine that runs tests has"

# Commands that stand in a block of another kind than console, because no test can run them here, and why.
NOT_RUN = {
    "./demo.sh": "is run by itself",
    "./test.sh": "is what runs this test",
    "./test.sh -k reservations": "is the same",
    "make test": "runs tests that this run has too",
    "make fmt": "would change the checkout that is tested; its two commands are checks of ./test.sh",
    "bin/annexd --help": "is what tests/unit/test_man_pages.py makes the pages from",
    "./test.sh --setup-only": "has made the environment that this runs in",
    "sudo make install": SERVICE,
    "sudo make uninstall": SERVICE,
    "sudo systemctl enable --now annexd": SERVICE,
    "sudo systemctl reload annexd": SERVICE,
    "sudo systemctl restart annexd": SERVICE,
    "sudo annexcli status": "asks that service; troubleshooting.md asks one that is run here",
    "journalctl -u annexd": "shows the log of the machine that it runs on",
    "iscsiadm -m node -T iqn.2019-04.org.example:old-array -u": KERNEL,
    "iscsiadm -m discovery -t sendtargets -p 192.0.2.1": KERNEL,
    "iscsiadm -m node -T iqn.2026-11.org.example:annex -l": KERNEL,
}

_COMMAND = re.compile(
    r"(\$ |sudo |(bin/)?annexd (serve|try|init|-\S+) |(bin/)?annex(cli|host) |curl |iscsi|make |python|systemctl |\./)"
)


@pytest.fixture
def array(tmp_path: Path) -> Iterator[Tgt]:
    """The old array, with a volume as LUN 1."""
    volume = tmp_path / VOLUME
    volume.write_bytes(os.urandom(VOLUME_BYTES))
    with Tgt(tmp_path) as tgt:
        tgt.add_lun(tgt.add_target("iqn.2019-04.org.example:old-array"), volume)
        yield tgt


@pytest.mark.parametrize("page", RUN, ids=[page.name for page in RUN])
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


def test_every_command_is_run_or_there_is_a_reason() -> None:
    text = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"^```(?:sh|bash|shell)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = {re.split(r" +# ", line)[0].strip() for block in blocks for line in block.splitlines()} - {""}
    assert commands == set(NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_command_stands_where_nothing_runs_it(page: Path) -> None:
    """In a block without a kind, in one of another kind, or in an indented one."""
    text = re.sub(r"^```(?:console|sh|text)\n.*?^```|^<!--.*?-->", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"(?<=\n\n)    (\S.*)", text)
    assert [line for line in lines if _COMMAND.match(line.strip())] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def _placed(text: str, places: dict[str, str]) -> str:
    pattern = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))
    return re.sub(pattern, lambda match: places[match[0]], text)
