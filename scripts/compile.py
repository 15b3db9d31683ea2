"""Compile the modules of the data path with mypyc: `python scripts/compile.py`. The same files, the same types, faster.

What comes out lies in build/compiled, with a manifest of the sources that it was made from. `daemon.compiled` loads it,
and leaves it alone as soon as one of these sources differs; so it can be old, and never wrong.

mypyc needs a C compiler and the headers of the Python that runs this.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from daemon.compiled import FOLDER, MANIFEST, Manifest, digest, usable

# What every command of a busy disk goes through, and what that calls. Not here: `scsi.nexus`, which takes part in a
# cycle of imports that mypyc does not survive; the tables of commands, which are read once. A class that derives from a
# compiled one has to be compiled as well.
MODULES = (
    "scsi.iscsi.answers",
    "scsi.iscsi.connection",
    "scsi.iscsi.early_requests",
    "scsi.iscsi.events",
    "scsi.iscsi.framing",
    "scsi.iscsi.initiator",
    "scsi.iscsi.initiator_session",
    "scsi.iscsi.initiator_task",
    "scsi.iscsi.initiator_transfers",
    "scsi.iscsi.intake",
    "scsi.iscsi.pdu",
    "scsi.iscsi.serial_numbers",
    "scsi.iscsi.session",
    "scsi.iscsi.task_pdus",
    "scsi.iscsi.transfers",
    "scsi.iscsi.waiting_line",
    "scsi.admission",
    "scsi.block_commands",
    "scsi.counters",
    "scsi.logical_unit",
    "scsi.reservations",
    "scsi.target",
    "scsi.task_set",
    "backends.devices.block",
    "backends.external.fence",
    "backends.external.lba_status",
    "backends.external.operation",
    "backends.external.pieces",
    "backends.external.provisioning",
    "backends.external.unit",
    "backends.pairs.copying",
    "backends.pairs.dirty_map",
    "backends.pairs.intent_log",
    "backends.pairs.mirror",
    "backends.pairs.mirror_faults",
    "backends.pairs.mirrored_changes",
    "backends.pairs.moving",
    "backends.pairs.range_order",
    "backends.pairs.volumes",
    "backends.pairs.walking",
    "backends.virtual_device",
)

_BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
folder, *paths = sys.argv[1:]
sys.argv[1:] = ["--quiet", "build_ext", "--build-lib", f"{folder}/lib", "--build-temp", f"{folder}/objects"]
setup(name="annex-compiled", packages=[], ext_modules=mypycify(paths, opt_level="2", target_dir=f"{folder}/c"))
"""


def is_current(root: Path) -> bool:
    """Tell whether what was compiled last is what would be compiled now."""
    manifest = usable(root)
    return manifest is not None and set(manifest.sources) == {str(source(name)) for name in MODULES}


def compile_modules(root: Path) -> None:
    """Compile into `root`/build/compiled; what was there is used until the new is complete.

    Raises:
        subprocess.CalledProcessError: mypyc or the C compiler failed; what they said is on standard error.
    """
    sources = {name: source(name) for name in MODULES}
    digests = {str(path): digest(root / path) for path in sources.values()}
    (root / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="compiling-", dir=root / "build") as scratch:
        # In a process of its own, so that mypyc's and setuptools' changes to sys stay there.
        command = [sys.executable, "-c", _BUILD, scratch, *map(str, sources.values())]
        done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            done.check_returncode()
        library = Path(scratch, "lib")
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        modules = {
            path.relative_to(library).as_posix().removesuffix(suffix).replace("/", "."): str(path.relative_to(library))
            for path in sorted(library.rglob(f"*{suffix}"))
        }
        missing = set(MODULES) - set(modules)
        assert not missing, f"not compiled: {missing}"
        (library / MANIFEST).write_text(json.dumps(Manifest(suffix, digests, modules)._asdict(), indent=1) + "\n")
        _replace(library, root / FOLDER)


def source(name: str) -> Path:
    """Give the path of a module's file under the root."""
    return Path(*name.split(".")).with_suffix(".py")


def _replace(new: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="compiled-old-", dir=folder.parent) as old:
        if folder.exists():
            folder.rename(Path(old, "folder"))  # a daemon that runs keeps what it has loaded
        shutil.move(new, folder)


def main() -> int:
    """Compile what is not up to date; give the exit code."""
    parser = argparse.ArgumentParser(
        prog="compile.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree to compile (default: this one)")
    parser.add_argument("--check", action="store_true", help="only tell by the exit code whether it is up to date")
    options = parser.parse_args()
    if is_current(options.root):
        return 0
    if options.check:
        return 1
    try:
        compile_modules(options.root)
    except subprocess.CalledProcessError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
