"""annexhost: what a host tells the array, from its command line.

Exit codes: 0 done · 1 the array refused, or what it sent was wrong · 2 the command line is wrong · 3 the array could
not be reached · 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

from config import __version__
from config.host import acquisition_verbs, pair_verbs, verbs
from config.host.address import Address, DiskAddress, check_name
from config.host.array import Array
from config.host.errors import HostToolError, Usage
from config.host.scsi_device import ScsiDevice
from config.host.terminal import Terminal
from config.host.verbs import Run

INITIATOR_NAME_FILE = Path("/etc/iscsi/initiatorname.iscsi")
INTERRUPTED = 130

OpenArray = Callable[[Address], AbstractContextManager[Array]]

EPILOG = """\
LU is iscsi://[user[%secret]@]host[:port]/target-name/lun, with the secret in LIBISCSI_CHAP_PASSWORD if it is not
in the URL, or a disk of this host, /dev/sdX.

exit codes: 0 done; 1 the array refused, or what it sent was wrong; 2 the command line is wrong; 3 the array could
not be reached; 130 interrupted. The reason is one line on stderr, with --json also an "error" document on stdout.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises, so that every end of annexhost goes through one place."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message} (see {self.prog} --help)")


def main(
    argv: Sequence[str] | None = None,
    open_array: OpenArray | None = None,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> int:
    """Run annexhost.

    Args:
        argv: the command line without the program's name; that of the process by default.
        open_array: opens the logical unit at an address; by default over iSCSI or SG_IO, as the address says.
        sleep: waits, in seconds, between two looks at something that takes time.
        now: monotonic seconds.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    terminal = Terminal(as_json="--json" in arguments)
    try:
        options = parser().parse_args(arguments)
        # With the data on stdout, the answer has to go elsewhere.
        terminal = Terminal(as_json=options.json, keep_stdout=getattr(options, "output", None) == "-")
        opener = open_array or _opener(_initiator_name(options.initiator))
        answer = options.verb(Run(options, terminal, opener, sleep, now))
        if answer is not None:
            terminal.answer(answer)
        sys.stdout.flush()
    except HostToolError as error:
        terminal.error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return HostToolError.exit_code
    return 0


def _opener(initiator_name: str) -> OpenArray:
    @contextmanager
    def open_array(address: Address) -> Iterator[Array]:
        device = _open_device(address, initiator_name)
        try:
            yield Array(device)
        finally:
            device.close()

    return open_array


def _open_device(address: Address, initiator_name: str) -> ScsiDevice:
    # Imported when needed: a host with disks only needs no libiscsi, and one without SG_IO no cython-sgio.
    if isinstance(address, DiskAddress):
        from config.host.disk_device import DiskDevice  # noqa: PLC0415 - see above

        return DiskDevice(address.path)
    from config.host.iscsi_device import IscsiDevice  # noqa: PLC0415 - see above

    return IscsiDevice(address, initiator_name)


def _initiator_name(asked: str | None) -> str:
    """Give the InitiatorName: the one asked for, that of this host's open-iscsi, or one made from the host's name."""
    if asked is not None:
        check_name(asked, "--initiator")
        return asked
    try:
        text = INITIATOR_NAME_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    match = re.search(r"^\s*InitiatorName\s*=\s*(\S+)", text, re.MULTILINE)
    if match:
        return match[1]
    host = re.sub(r"[^a-z0-9.-]", "-", socket.gethostname().lower())
    return f"iqn.2026-11.io.annex:host.{host}"


def parser() -> argparse.ArgumentParser:
    """Give the parser of annexhost's command line."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="answer with one JSON document on stdout")
    common.add_argument("--initiator", metavar="NAME", help="InitiatorName to log in with over iscsi://")
    top = _Parser(
        prog="annexhost",
        description="Pair logical units, and read external data, by SCSI commands to the array.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"annexhost {__version__}")
    top.add_argument("--json", action="store_true", help="answer with one JSON document on stdout")
    top.add_argument("--initiator", metavar="NAME", help="InitiatorName to log in with over iscsi://")
    words = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)

    def word(
        group: argparse._SubParsersAction[_Parser], name: str, verb: verbs.Verb, text: str
    ) -> argparse.ArgumentParser:
        added = group.add_parser(name, parents=[common], help=text, description=text)
        added.add_argument("lu", metavar="LU", help="the logical unit that the command is sent to")
        added.set_defaults(verb=verb)
        return added

    pair = words.add_parser("pair", help="create, split, resync, delete, take over, verify and display pairs")
    pair_words = pair.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_pair_words(lambda name, verb, text: word(pair_words, name, verb, text))
    _add_read_words(lambda name, verb, text: word(words, name, verb, text))
    word(words, "vdevs", verbs.show_virtual_devices, "list the virtual devices that this host may see")
    regions = word(words, "regions", verbs.show_regions, "list the regions of a virtual device")
    regions.add_argument("--vdev", type=_number, metavar="NUMBER", help="its number (default: the one under LU)")
    word(words, "acquisitions", verbs.show_acquisitions, "list the acquisitions of this host")
    word(words, "capabilities", verbs.show_capabilities, "show what the array can do, and its limits")
    return top


AddWord = Callable[[str, verbs.Verb, str], argparse.ArgumentParser]


def _add_pair_words(add: AddWord) -> None:
    create = add("create", pair_verbs.create, "form a pair: LU is the primary")
    create.add_argument("--secondary", required=True, metavar="NAA|LUN|LU", help="the other logical unit")
    create.add_argument("--fence", choices=("never", "status", "data"), default="never", help="fence level")
    create.add_argument("--nocopy", action="store_true", help="both sides are equal already")
    create.add_argument("--pace", type=_number, default=0, metavar="MIB_S", help="copy pace in MiB/s, 0 for no limit")
    create.add_argument("--label", default="", help="up to 32 bytes of text")
    split = add("split", pair_verbs.split, "stop mirroring; changes are tracked")
    split.add_argument("--secondary-writable", action="store_true", help="let hosts write the secondary")
    resync = add("resync", pair_verbs.resync, "copy what differs, then mirror again")
    direction = resync.add_mutually_exclusive_group()
    direction.add_argument("--reverse", action="store_true", help="copy from the secondary to the primary")
    direction.add_argument("--swap", action="store_true", help="after a takeover: the secondary becomes the primary")
    delete = add("delete", pair_verbs.delete, "end the pair; both sides keep the data they have")
    takeover = add("takeover", pair_verbs.takeover, "LU is the secondary: it takes over")
    verify = add("verify", pair_verbs.verify, "compare both sides; what differs becomes out of sync")
    verify.add_argument("--immediate", action="store_true", help="do not wait for the end of it")
    display = add("display", pair_verbs.display, "show one pair or all")
    display.add_argument("--watch", action="store_true", help="show again every second until interrupted")
    for added in (split, resync, delete, takeover, verify, display):
        added.add_argument(
            "--pair",
            type=_number,
            default=0,
            metavar="NUMBER",
            help="its number (default: the pair of LU; display: all)",
        )
    for added in (create, resync):
        added.add_argument("--wait", action="store_true", help="wait until the copy is done, with a progress bar")


def _add_read_words(add: AddWord) -> None:
    acquire = add("acquire", acquisition_verbs.acquire, "have the array fetch blocks as they are now")
    acquire.add_argument("--vdev", metavar="NAA|LUN|LU", help="the virtual device to read (default: the one under LU)")
    acquire.add_argument("--lba", type=_lba, default=0, help="first block (default: 0)")
    acquire.add_argument("--blocks", type=_number, help="number of blocks (default: to the end)")
    acquire.add_argument("--region", type=_number, default=0, help="number of the region that must hold them all")
    acquire.add_argument("--lifetime", type=_number, default=0, metavar="SECONDS", help="0 for the array's default")
    acquire.add_argument("--id", type=_number, default=0, help="an id of this host's choice (default: a random one)")
    acquire.add_argument("--no-wait", action="store_true", help="do not wait until the data is ready")
    stay = acquire.add_mutually_exclusive_group()
    stay.add_argument("-o", "--output", metavar="FILE", help="transfer it at once to a file, or - for stdout")
    stay.add_argument("--hold", action="store_true", help="stay logged in until the acquisition has ended")
    transfer = add("transfer", acquisition_verbs.transfer, "fetch acquired data and check it")
    transfer.add_argument("id", type=_number, help="the id of the acquisition")
    transfer.add_argument("-o", "--output", metavar="FILE", default="-", help="a file, or - for stdout (default)")
    transfer.add_argument("--offset", type=_number, default=0, metavar="BLOCKS", help="first block of it (default: 0)")
    transfer.add_argument("--count", type=_number, metavar="BLOCKS", help="number of blocks (default: all)")
    end = add("end", acquisition_verbs.end, "drop acquired data, and the fence with it")
    end.add_argument("id", type=_number, help="the id of the acquisition")


def _number(text: str) -> int:
    """Read a number that the wire has 32 bits for: decimal, or hexadecimal after 0x."""
    return _unsigned(text, 32)


def _lba(text: str) -> int:
    """Read a logical block address, 64 bits."""
    return _unsigned(text, 64)


def _unsigned(text: str, bits: int) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None
    if not 0 <= value < 1 << bits:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not between 0 and {(1 << bits) - 1}")
    return value
