"""A running annexd with a pair: a local file (LUN 0), a file under tgt (LUN 1), and a file of no pair (LUN 2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scsi.array_commands import FenceLevel, PairState
from tests.support.annexd import TARGET_NAME, Annexd
from tests.support.faulty_annexd import FaultyAnnexd
from tests.support.host import GOOD, Host
from tests.support.link_proxy import LinkProxy
from tests.support.load import Load
from tests.support.pair_commands import create_pair, wait_for_pair
from tests.support.tgt import Tgt

ARRAY_TARGET = "iqn.2026-11.org.example:array"
LEG_BYTES = 16 << 20
SLOTS = 64  # of the load: 2 MiB
CONTROL = "control.sock"


class TwoAnnexds(NamedTuple):
    """annexd, another annexd as its array with the link to that, and the files under both legs."""

    annexd: Annexd
    array: FaultyAnnexd
    link: LinkProxy
    local: Path
    remote: Path

    def compare(self, load: Load) -> None:
        """As `Paired.compare`."""
        compare(self.annexd, self.local, self.remote, load)


class Paired(NamedTuple):
    """annexd, its array with the link to it, and the files under both legs."""

    annexd: Annexd
    array: Tgt
    link: LinkProxy
    local: Path
    remote: Path

    @property
    def control(self) -> Path:
        """The Unix socket of the control API."""
        return self.annexd.folder / CONTROL

    def compare(self, load: Load) -> None:
        """Check that the pair is in PAIR, has what was acknowledged, and the same on both legs."""
        compare(self.annexd, self.local, self.remote, load)


def compare(annexd: Annexd, local: Path, remote: Path, load: Load) -> None:
    """Check a pair: PAIR, what was acknowledged is there, and both files are the same."""
    with Host(annexd.port) as host:
        wait_for_pair(host, PairState.PAIR)
        assert load.check(host) == []
    assert local.read_bytes() == remote.read_bytes()
    assert "Traceback" not in annexd.log()


@contextmanager
def paired(
    folder: Path, level: FenceLevel = FenceLevel.STATUS, state: Path | None = None, program: type[Annexd] = Annexd
) -> Iterator[Paired]:
    """Start all of it, and form the pair; `program` is how annexd runs."""
    local, remote, other = _files(folder)
    if state is not None:
        (folder / "state").symlink_to(state)
    with Tgt(folder) as array, LinkProxy(array.port) as link:
        array.add_lun(array.add_target(ARRAY_TARGET), remote)
        url = f"iscsi://127.0.0.1:{link.port}/{ARRAY_TARGET}/1"
        sources = (("--local", local), ("--array", url), ("--local", other))
        with program(folder, *sources, options=("--control", str(folder / CONTROL))) as annexd:
            _form(annexd, level)
            yield Paired(annexd, array, link, local, remote)


@contextmanager
def paired_with_annexd(
    folder: Path,
    level: FenceLevel = FenceLevel.STATUS,
    program: type[Annexd] = Annexd,
) -> Iterator[TwoAnnexds]:
    """The same with LUN 0 of another annexd in the place of tgt; each has `control.sock` in its folder."""
    local, remote, other = _files(folder)
    (folder / "array").mkdir()
    with (
        FaultyAnnexd(folder / "array", ("--local", remote), options=_control(folder / "array")) as array,
        LinkProxy(array.port) as link,
    ):
        url = f"iscsi://127.0.0.1:{link.port}/{TARGET_NAME}/0"
        sources = (("--local", local), ("--array", url), ("--local", other))
        with program(folder, *sources, options=_control(folder)) as annexd:
            _form(annexd, level)
            yield TwoAnnexds(annexd, array, link, local, remote)


def _control(folder: Path) -> tuple[str, str]:
    return ("--control", str(folder / "control.sock"))


def _files(folder: Path) -> tuple[Path, Path, Path]:
    local, remote, other = (folder / f"{name}.img" for name in ("local", "remote", "other"))
    for path in (local, remote, other):
        path.write_bytes(bytes(LEG_BYTES))
    return local, remote, other


def _form(annexd: Annexd, level: FenceLevel) -> None:
    with Host(annexd.port) as host:
        assert create_pair(host, 1, level).status == GOOD
        wait_for_pair(host, PairState.PAIR)
