"""docs/install.md does what it says, on a machine that systemd has booted, in the order of the page."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.annexd import ROOT
from tests.support.console import Command, Shell, steps
from tests.support.systemd_machine import SystemdMachine

# The first time the machine's root and the dependencies are made.
pytestmark = [pytest.mark.interop, pytest.mark.long, pytest.mark.timeout(600)]

# The machine has no network and may not write to the checkout: `make dependencies` is done outside of it.
PLACES = {"sudo make install": "sudo make -o dependencies install"}


def test_the_page_installs_starts_reloads_upgrades_and_removes(tmp_path: Path) -> None:
    subprocess.run(["make", "dependencies"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    page = (ROOT / "docs" / "install.md").read_text()
    for shown, run in PLACES.items():
        assert shown in page
        page = page.replace(shown, run)
    with SystemdMachine(tmp_path) as machine, Shell(tmp_path, os.environ, within=machine.inside()) as shell:
        shell.run(Command(f"cd {ROOT}", [], 0))
        for step in steps(page):
            assert isinstance(step, Command)
            shell.run(step)
        assert machine.run("find", "/usr/local", "-name", "*annex*") == ""
        assert machine.run("ls", "/etc/annex/annex.json")
