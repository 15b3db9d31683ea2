"""Which machine a state directory is of, so that a copy of it does not serve beside the one it was copied from.

How this works. The state directory has the InitiatorName by which external arrays know this annexd, and so its
reservations, its pairs and their marks. Two annexds with copies of one would both hold the fences of the same pairs,
and each would take its own leg for the newer one (F19, F23). So the directory says what it belongs to: the machine, by
the machine's id and, where it can be read, by the id in its firmware, which a hypervisor gives anew to a clone; and the
inode of its lock file, which every way of copying changes, and no renaming. What is not known on either side counts as
equal. The ids are hashed: the machine's id is nobody else's business.

A directory that was moved, or restored from a backup, is right in another place, but nothing here can tell that from a
copy whose first is still served. So the admin says it: `annexd adopt`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

# What a machine is known by, and where it says so; the second can be read by root only.
MACHINE_FILES = {"machine": "etc/machine-id", "firmware": "sys/class/dmi/id/product_uuid"}
_WORDS = {
    "machine": "another machine",
    "firmware": "another machine, or the machine that this one is a clone of",
    "lock": "another place, from which it was copied or restored",
}


def machine_ids(root: Path = Path("/")) -> dict[str, str]:
    """Give what this machine is known by, hashed; what it does not say, or not to us, is left out."""
    found = {}
    for name, path in MACHINE_FILES.items():
        try:
            text = (root / path).read_text().strip().lower()
        except (OSError, ValueError):
            continue
        if text and text != "uninitialized":
            found[name] = hashlib.sha256(f"annex state directory {text}".encode()).hexdigest()[:32]
    return found


def difference(recorded: dict[str, str], now: dict[str, str]) -> str:
    """Say of what the directory is that is recorded, when that is not what there is now; else ""."""
    return next(
        (
            words
            for name, words in _WORDS.items()
            if name in recorded and recorded[name] != now.get(name, recorded[name])
        ),
        "",
    )
