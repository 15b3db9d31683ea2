"""Secrets in files of the service manager: what is taken, and what is refused without being shown."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from config import checks, model
from config.errors import ConfigError
from daemon.credentials import DIRECTORY, MOST_BYTES, resolve

SECRET = "canary-0123456789"
OWN_SECRET = "canary-abcdefghij"


def configuration() -> model.Config:
    acl = model.Acl(
        initiator="iqn.2026-11.org.example:host",
        chap=model.Chap(name="host", credential="host.secret"),
        mutual_chap=model.Chap(name="annex", secret=OWN_SECRET),
    )
    target = model.Target(name="iqn.2026-11.org.example:t", portals=["127.0.0.1:3260"], luns=[], acls=[acl])
    config = model.Config(version=2, state_directory="/state", targets=[target])
    checks.check(config)
    return config


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    path = tmp_path / "host.secret"
    path.write_text(SECRET)
    path.chmod(0o400)
    return path


def rewrite(file: Path, data: bytes) -> None:
    file.chmod(0o600)
    file.write_bytes(data)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440])
def test_a_credential_is_a_secret_without_its_newline_in_a_copy(file: Path, end: str, mode: int) -> None:
    rewrite(file, (SECRET + end).encode())
    file.chmod(mode)
    config = configuration()
    acl = resolve(config).targets[0].acls[0]
    assert acl.chap is not None
    assert acl.mutual_chap is not None
    assert (acl.chap.secret, acl.mutual_chap.secret) == (SECRET, OWN_SECRET)
    kept = config.targets[0].acls[0].chap
    assert kept is not None
    assert (kept.secret, kept.credential) == ("", "host.secret")


def test_only_one_newline_is_cut(file: Path) -> None:
    rewrite(file, (SECRET + " \n\n").encode())
    chap = resolve(configuration()).targets[0].acls[0].chap
    assert chap is not None
    assert chap.secret == SECRET + " \n"


def no_file(file: Path) -> None:
    file.unlink()


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_file, "No such file"),
        (folder, "can not be read|not a file"),
        (fifo, "not a file"),
        (lambda file: file.chmod(0o404), "mode 0404"),
        (lambda file: file.chmod(0o620), "mode 0620"),
        (lambda file: os.chown(file, 65534, -1), "belongs to user 65534"),
        (lambda file: rewrite(file, b""), "empty"),
        (lambda file: rewrite(file, b"\n"), "empty"),
        (lambda file: rewrite(file, SECRET.encode() + b"\xff"), "not UTF-8"),
        (lambda file: rewrite(file, SECRET.encode() * MOST_BYTES), "longer than a secret"),
        (lambda file: rewrite(file, b"canary-"), "12"),
        (lambda file: rewrite(file, OWN_SECRET.encode()), "same"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_no_secret_is_refused_with_its_place_and_not_shown(
    file: Path, spoil: Callable[[Path], object], said: str
) -> None:
    if "belongs" in said and os.geteuid():
        pytest.skip("only root gives files away")
    spoil(file)
    with pytest.raises(ConfigError, match=said) as refused:
        resolve(configuration())
    assert str(refused.value).startswith("targets[0].acls[0]")
    assert "canary" not in repr(refused.value) + str(refused.value)


def test_without_a_service_manager_it_says_what_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY)
    with pytest.raises(ConfigError, match=r"\$CREDENTIALS_DIRECTORY is not set"):
        resolve(configuration())
