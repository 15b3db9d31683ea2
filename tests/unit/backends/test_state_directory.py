"""The state directory: its lock, its identity, and files that are old or new after a crash at any step."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from backends.state_directory import StateDirectory, StateError, decode, encode

STEPS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "close")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_directory_and_files_are_for_the_daemon_only(place: Path) -> None:
    with_umask = os.umask(0)
    try:
        StateDirectory(place)
    finally:
        os.umask(with_umask)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in place.iterdir()} == {0o600}


def test_initiator_name_is_made_once(place: Path) -> None:
    first = StateDirectory(place)
    first.close()
    assert StateDirectory(place).initiator_name == first.initiator_name
    assert StateDirectory(place.with_name("other")).initiator_name != first.initiator_name


def test_second_daemon_is_refused_with_the_holders_process(place: Path) -> None:
    first = StateDirectory(place)
    with pytest.raises(StateError, match=f"in use by another annexd, held by process {os.getpid()} "):
        StateDirectory(place)
    first.close()
    StateDirectory(place).close()


def test_directory_that_others_may_write_to_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(StateError, match=r"has mode 0777, others may write to it .chmod 700"):
        StateDirectory(place)


def test_place_that_can_not_be_a_directory_is_refused(place: Path) -> None:
    place.write_text("a file")
    with pytest.raises(StateError, match="state: file exists"):
        StateDirectory(place)


def test_file_that_was_never_written_is_none(place: Path) -> None:
    assert StateDirectory(place).read("mapping") is None


def test_content_is_read_back_and_the_previous_one_kept(place: Path) -> None:
    state = StateDirectory(place)
    state.write("mapping", {"a": 1})
    state.write("mapping", {"a": 2})
    assert state.read("mapping") == {"a": 2}
    assert decode((place / "mapping.json.previous").read_bytes()) == {"a": 1}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw.replace(b"41", b"42"), "its checksum is wrong"),
        (lambda raw: raw[:-20], "damaged: "),
        (lambda raw: b"", "damaged: "),
        (lambda raw: b"\xff" + raw, "damaged: "),
        (lambda raw: b"[]", "it is not a state file"),
        (lambda raw: raw.replace(b'"format": 1', b'"format": 2'), "format 2 is newer"),
        (lambda raw: b"[" * 100_000, "damaged: "),
    ],
)
def test_damaged_file_is_named_with_the_reason_and_nothing_is_lost(damage: object, reason: str, place: Path) -> None:
    assert callable(damage)
    state = StateDirectory(place)
    state.write("mapping", {"n": 40})
    state.write("mapping", {"n": 41})
    file = place / "mapping.json"
    file.write_bytes(damage(file.read_bytes()))
    before = {path: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(StateError) as caught:
        state.read("mapping")
    assert str(caught.value).startswith(f"{file}: ")
    assert reason in str(caught.value)
    assert str(caught.value).endswith(f"(its previous content is in {file}.previous)")
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_file_that_vanished_is_no_fresh_start(place: Path) -> None:
    state = StateDirectory(place)
    state.write("mapping", {"a": 1})
    state.write("mapping", {"a": 2})
    (place / "mapping.json").unlink()
    with pytest.raises(StateError, match="is missing, and was there before"):
        state.read("mapping")


def test_damaged_identity_is_refused_and_kept(place: Path) -> None:
    StateDirectory(place).close()
    file = place / "identity.json"
    file.write_bytes(encode({"initiator_name": "iqn.1993-08.org.debian:somebody"}))
    with pytest.raises(StateError, match=r"identity.json: 'iqn.1993-08.org.debian:somebody' is not"):
        StateDirectory(place)
    assert b"debian" in file.read_bytes()


def test_f24_after_a_crash_at_any_step_the_content_is_old_or_new(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for crash_at in range(40):
        here = place.with_name(f"state{crash_at}")
        state = StateDirectory(here)
        state.write("mapping", {"a": 0})
        state.write("mapping", {"a": 1})
        steps = 0

        def failing(name: str, crash_at: int = crash_at) -> object:
            real = getattr(os, name)

            def step(*arguments: object, **options: object) -> object:
                nonlocal steps
                steps += 1
                if steps > crash_at:  # every later step, too: a dead process does nothing any more
                    raise OSError(5, "power cut")
                return real(*arguments, **options)

            return step

        with monkeypatch.context() as patch:
            for name in STEPS[:-1]:
                patch.setattr(os, name, failing(name))
            try:
                state.write("mapping", {"a": 2})
                survived = True
            except StateError:
                survived = False
        state.close()
        content = StateDirectory(here).read("mapping")
        assert content in ([{"a": 2}] if survived else [{"a": 1}, {"a": 2}])
        seen.add((survived, json.dumps(content)))
        if survived:
            break
    assert seen == {(False, '{"a": 1}'), (False, '{"a": 2}'), (True, '{"a": 2}')}


def test_a_new_name_that_a_killed_daemon_left_unsynced_is_stable_before_it_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDirectory(place).close()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    StateDirectory(place).close()
    assert synced == [place.stat().st_ino]


def test_write_after_an_interrupted_one_works(place: Path) -> None:
    state = StateDirectory(place)
    state.write("mapping", {"a": 1})
    (place / "mapping.json.new").write_text("half")
    (place / "mapping.json.link").write_text("half")
    state.write("mapping", {"a": 2})
    assert state.read("mapping") == {"a": 2}


def test_failed_write_names_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(place)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StateError, match=r"mapping.json: can not be written: No space left on device"):
        state.write("mapping", {"a": 1})
