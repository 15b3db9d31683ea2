"""A state directory that was copied has the first annexd's name, and so its reservations and its pairs (F19, F23)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scsi.array_commands import ArrayOut, PairState
from tests.support.annexd import ROOT, Annexd
from tests.support.host import GOOD, Host, read_cdb, sense_of
from tests.support.load import Load
from tests.support.pair_commands import array_out, the_pair
from tests.support.paired import ARRAY_TARGET, SLOTS, paired

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ADOPT_LIMIT_S = 30.0


def test_f19_f23_a_copied_state_directory_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    first_folder.mkdir()
    second_folder.mkdir()
    load = Load(SLOTS, seed=19)
    with paired(first_folder) as pair:
        shutil.copytree(first_folder / "state", second_folder / "state")
        url = f"iscsi://127.0.0.1:{pair.link.port}/{ARRAY_TARGET}/1"
        other = first_folder / "other.img"
        second = Annexd(second_folder, ("--local", pair.local), ("--array", url), ("--local", other))
        with Host(pair.annexd.port) as host:
            with pytest.raises(RuntimeError, match="belongs to another place, from which it was copied or restored"):
                second.start()
            second.kill()
            load.run(host, 50)
            assert the_pair(host).state == PairState.PAIR
        assert load.failed == []
        pair.annexd.kill()  # its box is lost for good, and another takes over with the copy
        assert "this machine's now" in adopt(second_folder / "state")
        with second:
            pair._replace(annexd=second).compare(load)


def test_f19_pairs_of_a_backup_are_not_served_since_nobody_knows_which_leg_is_newer(tmp_path: Path) -> None:
    load = Load(SLOTS, seed=20)
    with paired(tmp_path) as pair:
        shutil.copytree(tmp_path / "state", tmp_path / "backup")
        with Host(pair.annexd.port) as host:
            assert array_out(host, ArrayOut.PAIR_SPLIT).status == GOOD
            load.run(host, 50)
        pair.annexd.stop()
        before = pair.local.read_bytes(), pair.remote.read_bytes()
        (tmp_path / "state").rename(tmp_path / "lost")
        (tmp_path / "backup").rename(tmp_path / "state")
        assert "1 pair" in adopt(tmp_path / "state", "--restored")
        with pair.annexd, Host(pair.annexd.port) as host:
            for lun in (0, 1):
                answer = host.command(read_cdb(0, 8), data_in_bytes=4096, lun=lun)
                assert sense_of(answer) == (0x02, 0x04, 0x03)
            assert array_out(host, ArrayOut.PAIR_DELETE).status == GOOD
            assert (pair.local.read_bytes(), pair.remote.read_bytes()) == before
            assert load.check(host) == []


def adopt(state: Path, *options: str) -> str:
    """Run `annexd adopt`; give what it says."""
    command = [sys.executable, "-I", str(ROOT), "adopt", "--state", str(state), *options]
    adopted = subprocess.run(command, capture_output=True, text=True, timeout=ADOPT_LIMIT_S)
    assert (adopted.returncode, adopted.stderr) == (0, "")
    return adopted.stdout
