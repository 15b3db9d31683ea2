"""Saving the configuration: old or new and never between, its modes, its backups (V34, V35, V36)."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config import backups, files, model, store
from config.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
SECRET = "canary-6b1f-do-not-print"


def configuration(*names: str) -> model.Config:
    return model.Config(
        version=model.VERSION,
        state_directory="/var/lib/annex",
        devices=[model.Device(name=name, path=f"/dev/{name}") for name in names],
        discovery=model.Discovery(chap=model.Chap(name="host", secret=SECRET)),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    return folder / "annex.json"


@pytest.fixture
def any_umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(entry.relative_to(folder)): entry.read_bytes() for entry in folder.rglob("*") if entry.is_file()}


def failing(number: int, *, on: Callable[[int], bool] = lambda _: True) -> Callable[[int], None]:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if on(descriptor):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return fail


# --- What is saved ---


def test_what_is_saved_is_loaded_again_and_says_no_more_than_it_must(path: Path) -> None:
    wanted = configuration("a")
    wanted.control = model.Control()
    wanted.targets = [
        model.Target(
            name="iqn.2026-11.org.example:t",
            portals=["127.0.0.1"],
            luns=[],
            acls=[model.Acl(initiator="iqn.2026-11.org.example:h", luns=[])],
        )
    ]
    store.save(path, wanted)
    assert store.load(path) == wanted
    assert b"null" not in path.read_bytes()


def test_a_configuration_that_load_would_refuse_for_its_size_is_not_saved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(path, configuration("a"))
    before = tree(path.parent)
    monkeypatch.setattr(store, "MAX_FILE_BYTES", 100)
    with pytest.raises(ConfigError, match="larger than 100 bytes"):
        store.save(path, configuration("b"))
    assert tree(path.parent) == before


# --- V34: modes ---


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_v34_file_and_backups_are_0600_in_a_0700_folder_under_any_umask(
    path: Path, any_umask: Callable[[int], int], umask: int
) -> None:
    path.write_text("{}")
    path.chmod(0o666)
    any_umask(umask)
    store.save(path, configuration("a"))
    store.save(path, configuration("b"))
    any_umask(0o022)
    assert mode(path) == 0o600
    assert mode(path.parent / "backup") == 0o700
    assert [mode(backup.path) for backup in backups.listed(path)] == [0o600, 0o600]


def test_v34_a_symbolic_link_is_followed_and_stays(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    store.save(link, configuration("a"))
    store.save(link, configuration("b"))
    assert link.is_symlink()
    assert store.load(path).devices[0].name == "b"
    assert [backup.path.parent for backup in backups.listed(link)] == [path.parent / "backup"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["etc", "link.json"]


def test_root_leaves_the_owner_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    store.save(path, configuration("a"))
    assert given == []
    store.export(path, configuration("b"))
    assert given == [(path.stat().st_uid, path.stat().st_gid)]


# --- V35: folders of others ---


def test_v35_a_folder_that_was_there_keeps_its_mode(path: Path) -> None:
    path.parent.chmod(0o777)
    (path.parent / "backup").mkdir()
    (path.parent / "backup").chmod(0o755)
    for name in "abc":
        store.save(path, configuration(name))
    assert mode(path.parent) == 0o777
    assert mode(path.parent / "backup") == 0o755


def test_v35_an_export_makes_one_file_and_nothing_else(path: Path) -> None:
    path.parent.chmod(0o1777)
    store.export(path, configuration("a"))
    store.export(path, configuration("b"))
    assert mode(path.parent) == 0o1777
    assert [entry.name for entry in path.parent.iterdir()] == ["annex.json"]
    assert mode(path) == 0o600


# --- V36: old or new ---


def test_v36_the_new_file_is_stable_before_it_has_the_name_and_the_folder_after(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(path, configuration("a"))
    steps: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        steps.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def note_rename(old: Path, new: Path) -> Path:
        steps.append(("rename", new.name))
        return rename(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_rename)
    store.export(path, configuration("b"))
    assert steps == [("fsync", ".annex.json.new"), ("rename", "annex.json"), ("fsync", "etc")]


@pytest.mark.parametrize("calls_before", range(4))
def test_v36_a_disk_that_fails_at_any_step_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, calls_before: int
) -> None:
    store.save(path, configuration("a"))
    store.save(path, configuration("b"))
    before = tree(path.parent)
    calls = iter(range(100))
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC, on=lambda _: next(calls) == calls_before))
    with pytest.raises(ConfigError) as refused:
        store.save(path, configuration("c"))
    assert str(refused.value) == f"{path}: can not be written: No space left on device (make room on its file system)"
    assert tree(path.parent) == before


def test_v36_a_first_save_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(ConfigError, match="Input/output error"):
        store.save(path, configuration("a"))
    assert list(path.parent.iterdir()) == []


def test_v36_a_file_that_may_not_grow_leaves_the_old_one(path: Path) -> None:
    store.save(path, configuration("a"))
    before = tree(path.parent)
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from config import store\n"
        "config = store.load(pathlib.Path(sys.argv[2]))\n"
        "config.devices = config.devices * 100\n"
        "store.save(pathlib.Path(sys.argv[2]), config)\n"
    )
    done = subprocess.run(
        [sys.executable, "-IB", "-c", program, str(ROOT), str(path)],  # -B: no half-written .pyc
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
    )
    assert f"ConfigError: {path}: can not be written: File too large" in done.stderr
    assert SECRET not in done.stderr
    assert tree(path.parent) == before


def test_what_a_crash_left_is_gone_with_the_next_save(path: Path) -> None:
    (path.parent / ".annex.json.new").write_text("half of")
    store.save(path, configuration("a"))
    assert [entry.name for entry in path.parent.iterdir()] == ["annex.json"]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (path.parent / ".annex.json.new").symlink_to(victim)
    store.save(path, configuration("a"))
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


# --- Places where nothing can be saved ---


def in_no_folder(path: Path) -> Path:
    return path.parent / "none" / "annex.json"


def that_is_a_folder(path: Path) -> Path:
    path.mkdir()
    return path


def that_is_a_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def that_leads_to_itself(path: Path) -> Path:
    path.symlink_to(path)
    return path


def of_too_long_a_name(path: Path) -> Path:
    return path.with_name("n" * 255)


def with_a_file_for_a_backup_folder(path: Path) -> Path:
    path.write_text("{}")
    (path.parent / "backup").write_text("")
    return path


@pytest.mark.parametrize(
    "place",
    [
        in_no_folder,
        that_is_a_folder,
        that_is_a_fifo,
        that_leads_to_itself,
        of_too_long_a_name,
        with_a_file_for_a_backup_folder,
    ],
)
def test_a_file_that_can_not_be_saved_gets_one_line_with_its_place(path: Path, place: Callable[[Path], Path]) -> None:
    file = place(path)
    before = tree(path.parent) if file != path or not path.is_fifo() else None
    with pytest.raises(ConfigError) as refused:
        store.save(file, configuration("a"))
    assert refused.value.place == str(file)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    if before is not None:
        assert tree(path.parent) == before


def test_a_fifo_is_not_waited_for_when_it_is_loaded(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        store.load(path)


# --- Backups ---


def test_the_last_ten_versions_are_kept_with_number_and_time(path: Path) -> None:
    for number in range(15):
        store.save(path, configuration(f"disk{number}"))
        os.utime(path, (0, 86400 * number))
    kept = backups.listed(path)
    assert [backup.number for backup in kept] == list(range(14, 4, -1))
    assert [backup.written.day for backup in kept] == list(range(14, 4, -1))
    assert [store.load(backup.path).devices[0].name for backup in kept] == [f"disk{n}" for n in range(13, 3, -1)]
    assert kept[0].path.name == "annex-000014-19700114T000000Z.json"


def test_the_same_again_makes_no_backup(path: Path) -> None:
    for _ in range(3):
        store.save(path, configuration("a"))
    assert backups.listed(path) == []
    assert not (path.parent / "backup").exists()


def test_what_an_admin_wrote_into_the_file_is_kept_even_when_it_is_half_a_file(path: Path) -> None:
    path.write_text('{"version": 2, "dev')
    store.save(path, configuration("a"))
    assert [backup.path.read_text() for backup in backups.listed(path)] == ['{"version": 2, "dev']


def test_files_of_others_in_the_backup_folder_are_neither_listed_nor_removed(path: Path) -> None:
    folder = path.parent / "backup"
    folder.mkdir()
    others = [
        "annex-000001-20269911T000000Z.json",
        "other-000001-20261111T000000Z.json",
        "annex-1-20261111T000000Z.json",
        "annex.json",
    ]
    for name in others:
        (folder / name).write_text("mine")
    for number in range(13):
        store.save(path, configuration(f"disk{number}"))
    assert len(backups.listed(path)) == backups.KEPT
    assert {name for name in others if (folder / name).read_text() == "mine"} == set(others)


def test_a_backup_that_can_not_be_removed_does_not_fail_the_save(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(11):
        store.save(path, configuration(f"disk{number}"))
    unlink = Path.unlink

    def stuck(self: Path, missing_ok: bool = False) -> None:
        if "-000001-" in self.name:
            raise PermissionError(errno.EPERM, "no")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", stuck)
    store.save(path, configuration("last"))
    assert store.load(path).devices[0].name == "last"
    assert files.real(path) == path
