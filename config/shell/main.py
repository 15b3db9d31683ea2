"""annexcli: the shell with which an admin sees and changes a running annexd.

Exit codes: 0 done · 1 annexd refused · 2 the command line is wrong · 3 no annexd · 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from config import __version__
from config.errors import ConfigError
from config.model import Control, split_portal
from config.shell.client import Address, Client, read_token
from config.shell.errors import Usage, exit_code
from config.shell.terminal import Terminal

INTERRUPTED = 130
DEFAULT_PORT = 3261
MAX_LINE_CHARACTERS = 65536
OFFER = "--offer"  # what bash's completion asks; it is for programs, and not in the help

EPILOG = """\
Without PATH and COMMAND it is a shell; with commands on standard input it runs them until one fails. `annexcli help`
explains the tree.

exit codes: 0 done; 1 annexd refused; 2 the command line is wrong; 3 annexd is not there, or does not answer; 130
interrupted. The reason is one line on stderr, with --json also an "error" document on stdout.
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises, so that every end of annexcli goes through one place."""

    def error(self, message: str) -> NoReturn:
        raise Usage("annexcli", message, f"see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """Give the parser of the command line."""
    made = _Parser(
        prog="annexcli",
        description="See and change a running annexd.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"annexcli {__version__}")
    made.add_argument("--socket", metavar="SOCKET", help=f"annexd's control socket (default: {Control().socket})")
    made.add_argument(
        "--host", metavar="HOST[:PORT]", help=f"an annexd on another machine, over TLS (port {DEFAULT_PORT})"
    )
    made.add_argument("--token-file", metavar="FILE", help="with --host: a file with the token")
    made.add_argument("--cafile", metavar="FILE", help="with --host: the authority that signed annexd's certificate")
    made.add_argument("--json", action="store_true", help="answers are JSON documents, one a line")
    made.add_argument("--yes", action="store_true", help="do not ask before what can not be taken back")
    made.add_argument("words", metavar="PATH COMMAND", nargs=argparse.REMAINDER, help="run one command and end")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run annexcli; give its exit code.

    Args:
        argv: the command line without the program's name; that of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [OFFER]:
        _offer(arguments[1:])
        return 0
    _speak_with_anything()
    terminal = Terminal(as_json="--json" in arguments)
    try:
        options = _options(arguments)
        terminal = Terminal(as_json=options.json, assume_yes=options.yes)
        _run(options, terminal)
        sys.stdout.flush()
    except ConfigError as error:
        terminal.error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `annexcli ls | head`
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; --json and --yes may also stand after the command."""
    options = parser().parse_args(arguments)
    options.json |= "--json" in options.words
    options.yes |= "--yes" in options.words
    options.words = [word for word in options.words if word not in {"--json", "--yes"}]
    return options


def _run(options: argparse.Namespace, terminal: Terminal) -> None:
    from config.shell.shell import Shell  # noqa: PLC0415 - configshell and readline take time that --version need not

    api = Client(_address(options))
    if options.words:
        Shell(api, terminal).run_words(options.words)
        return
    api.get("/v1/status")  # who is not there should say so before the first command
    shell = Shell(api, terminal)
    if terminal.interactive:
        terminal.say(f"annexcli {__version__}. Type help for help, exit to leave.")
        shell.run_interactive()
    else:
        shell.run_script(_lines())


def _lines() -> Iterator[str]:
    """Give the lines of standard input.

    Raises:
        Usage: one has no end in sight.
    """
    while sys.stdin and (line := sys.stdin.readline(MAX_LINE_CHARACTERS + 1)):
        if len(line) > MAX_LINE_CHARACTERS:
            raise Usage("standard input", f"has a line of more than {MAX_LINE_CHARACTERS} characters")
        yield line


def _speak_with_anything() -> None:
    """Let what is no UTF-8 come in as what is refused, and go out as its code."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _offer(typed: list[str]) -> None:
    """Print what the last word of a half-typed command line can become, one a line; nothing when that is not known."""
    from config.shell.offers import offers  # noqa: PLC0415 - as in _run
    from config.shell.shell import Shell  # noqa: PLC0415 - as in _run

    *before, partial = typed or [""]
    if {"-h", "--help", "--version"}.isdisjoint(before):
        with suppress(ConfigError):
            options = parser().parse_args(before)
            shell = Shell(Client(_address(options)), Terminal(as_json=False))
            for offer in offers(shell, options.words, partial):
                print(offer)


def _address(options: argparse.Namespace) -> Address:
    if not options.host:
        if options.token_file or options.cafile:
            raise Usage("--token-file, --cafile", "go with --host")
        return Address(socket=options.socket or Control().socket)
    if options.socket:
        raise Usage("--socket, --host", "exclude each other")
    if not options.token_file:
        raise Usage("--host", "needs --token-file FILE")
    try:
        host, port = split_portal(options.host, DEFAULT_PORT)
    except ValueError as error:
        raise Usage("--host", str(error)) from None
    return Address(host=host, port=port, token=read_token(Path(options.token_file)), cafile=options.cafile)


if __name__ == "__main__":
    sys.exit(main())
