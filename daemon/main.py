"""The command line of annexd.

Exit codes: 0 stopped as asked, 1 a fault while running, 2 the command line or the configuration can not be used.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from backends.pairs.store import distrust_records
from backends.state_directory import StateDirectory, StateError
from config import __version__, store
from config.errors import ConfigError, ListenError
from config.model import VERSION, Config, Control
from daemon import event_loop, journal, try_mode
from daemon.service import Service

EXIT_UNUSABLE = 2
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL; the unit has systemd start annexd again
DEFAULT_FILE = Path("/etc/annex/annex.json")
DEFAULT_STATE_DIRECTORY = Path("/var/lib/annex")


class _AppendSource(argparse.Action):
    """Keep `--local` and `--array` in the one order in which they were given: it becomes the order of the LUNs."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.sources = [*namespace.sources, try_mode.Source(str(option_string), str(values))]


def parser() -> argparse.ArgumentParser:
    """Give the parser of annexd's command line."""
    top = argparse.ArgumentParser(
        prog="annexd",
        description="A userspace iSCSI target that fronts local block devices and a remote array as one.",
        epilog="Exit codes: 0 stopped as asked, 1 a fault while running, 2 bad command line or configuration.",
    )
    top.add_argument("--version", action="version", version=f"annexd {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser(
        "init",
        help="write a configuration file to begin with",
        description="Write a configuration file with mode 0600 that serves nothing yet. Then start 'annexd serve', and "
        "add devices and targets with annexcli.",
    )
    init.add_argument("--state", type=Path, default=DEFAULT_STATE_DIRECTORY, metavar="DIR",
                      help=f"where ids and pairs are kept; default: {DEFAULT_STATE_DIRECTORY}")  # fmt: skip

    serve = commands.add_parser("serve", help="serve what a configuration file says")
    adopt = commands.add_parser(
        "adopt",
        help="take over a state directory that was moved here, or restored from a backup",
        description="Take over a state directory that was made on another machine, or was copied: with the ids, the "
        "pairs and the name by which arrays know the annexd that it is of. Only where that one will never run again: "
        "two of them would write to the same pairs.",
    )
    adopt.add_argument("--state", type=Path, metavar="DIR", help="the state directory; default: what --config says")
    adopt.add_argument("--restored", action="store_true",
                       help="it is from a backup, older than what hosts wrote since: no pair in it is served "
                       "until it is deleted, and formed anew from the leg that is right")  # fmt: skip
    for command in (init, serve, adopt):
        command.add_argument("--config", type=Path, default=DEFAULT_FILE, metavar="FILE",
                             help=f"the configuration, JSON; default: {DEFAULT_FILE}")  # fmt: skip
    serve.add_argument("--check", action="store_true", help="read and check the configuration, and stop")

    try_ = commands.add_parser(
        "try",
        help="serve files, devices and external LUs to hosts on this machine, without a configuration",
        description="Serve each --local and --array, in the order given, as LUN 0, 1, … of "
        f"{try_mode.TARGET_NAME} to hosts on this machine. With neither, a sparse 1 GiB file.",
    )
    try_.add_argument("--portal", required=True, metavar="HOST:PORT", help="where hosts log in, e.g. 127.0.0.1:3260")
    try_.add_argument("--local", action=_AppendSource, dest="sources", metavar="PATH", help="a block device or a file")
    try_.add_argument(
        "--array",
        action=_AppendSource,
        dest="sources",
        metavar="URL",
        help="an external LU, iscsi://[user%%secret@]host[:port]/iqn/lun",
    )
    try_.add_argument("--state", type=Path, metavar="DIR", help="keep ids and pairs here; default: a temporary folder")
    try_.add_argument(
        "--control", metavar="SOCKET", help="take changes from annexcli here; they are live, and not saved"
    )
    try_.set_defaults(sources=[])

    for command in (serve, try_):
        command.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop", help="the event loop")
        command.add_argument(
            "--log-level",
            choices=("debug", "info", "warning", "error"),
            default="info",
            help="the least that is logged",
        )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run annexd with `arguments` (default: the process's own); give its exit code."""
    options = parser().parse_args(arguments)
    if options.command == "init":
        return _init(options.config, options.state)
    if options.command == "adopt":
        return _adopt(options.config, options.state, restored=options.restored)
    journal.start(logging.getLevelName(options.log_level.upper()))
    with ExitStack() as undo:
        try:
            config = _configuration(options, undo)
            if options.command == "serve" and options.check:
                return 0
            file = options.config if options.command == "serve" else None
            service = Service(config, file=file, announce=file is None)
            return event_loop.run(service.run(), use_uvloop=options.loop == "uvloop")
        except (ConfigError, StateError) as error:
            print(f"annexd: {error}", file=sys.stderr)
            return EXIT_TRY_AGAIN if isinstance(error, ListenError) else EXIT_UNUSABLE


def _init(file: Path, state_directory: Path) -> int:
    try:
        store.create(file, Config(version=VERSION, state_directory=str(state_directory.absolute()), control=Control()))
    except ConfigError as error:
        print(f"annexd: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    print(f"{file} is written; now: annexd serve --config {file}")
    return 0


def _adopt(file: Path, state_directory: Path | None, *, restored: bool) -> int:
    try:
        place = Path(store.load(file).state_directory) if state_directory is None else state_directory.absolute()
        if not place.is_dir():
            raise ConfigError(str(place), "is not there")
        state = StateDirectory(place, adopt=True)
        try:
            records = distrust_records(place / "pairs") if restored else 0
        finally:
            state.close()
    except (ConfigError, StateError, OSError) as error:
        print(f"annexd: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    print(f"{place} is this machine's now; to arrays it is {state.initiator_name}")
    if restored:
        pairs = f"{records} pair{'s' * (records != 1)}"
        print(f"{pairs}, of which nothing is served until deleted: find out which leg is right, and form them anew")
    return 0


def _may_be_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True


def _configuration(options: argparse.Namespace, undo: ExitStack) -> Config:
    if options.command == "serve":
        if not _may_be_there(options.config):
            raise ConfigError(str(options.config), "is not there", f"begin with: annexd init --config {options.config}")
        return store.load(options.config)
    if options.state is None:
        options.state = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="annexd-try-")))
    try:
        options.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--state {options.state}", f"can not be made: {error.strerror}") from None
    return try_mode.configuration(options.portal, options.sources, options.state.resolve(), options.control)
