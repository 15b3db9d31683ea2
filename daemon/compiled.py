"""The compiled modules of the data path, where they were made and still are what their sources say.

`scripts/compile.py` makes them, from the same .py files, with mypyc. Loading them is a matter of who finds a module
first: the finder here answers for the compiled ones, and Python's own for all others. There is no second code path and
no try-import; without the folder, or with a source that has changed since, all of annex runs interpreted.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

FOLDER = Path("build", "compiled")  # under the root of the tree
MANIFEST = "manifest.json"
SWITCH = "ANNEX_INTERPRETED"  # set it to 1 to do without


class Manifest(NamedTuple):
    """What lies in the folder.

    Attributes:
        suffix: of extension modules, of the Python that they were made for.
        sources: SHA-256 of each source, by its path under the root.
        modules: path of each module in the folder, by its name.
    """

    suffix: str
    sources: dict[str, str]
    modules: dict[str, str]


class CompiledFinder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules.

    Args:
        files: by name of the module.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Give the spec of a compiled module, None for all others."""
        file = self._files.get(fullname)
        return importlib.util.spec_from_file_location(fullname, file) if file else None


def use(root: Path) -> bool:
    """Load the compiled modules of the tree at `root` from now on; False when there are none that are up to date.

    Call it before any of them is imported.
    """
    manifest = None if os.environ.get(SWITCH) == "1" else usable(root)
    if manifest is None:
        return False
    sys.meta_path.insert(0, CompiledFinder({name: root / FOLDER / file for name, file in manifest.modules.items()}))
    return True


def in_use() -> bool:
    """Tell whether this process runs the compiled modules."""
    return any(isinstance(finder, CompiledFinder) for finder in sys.meta_path)


def usable(root: Path) -> Manifest | None:
    """Give the manifest of the compiled modules, None when they are missing, out of date or for another Python."""
    try:
        content = json.loads((root / FOLDER / MANIFEST).read_bytes())
        manifest = Manifest(content["suffix"], content["sources"], content["modules"])
        fresh = all(digest(root / path) == wanted for path, wanted in manifest.sources.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if fresh and manifest.suffix == sysconfig.get_config_var("EXT_SUFFIX") else None


def digest(path: Path) -> str:
    """Give the SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
