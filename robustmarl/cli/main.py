"""What every command has in common: what was typed, how errors and doubts are told."""

import argparse
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robustmarl.cli.parser import parser_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit code.

    Args:
        arguments: of the command line; None takes the process's own.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = parser_of(_program())
    if not words:
        parser.print_help()
        return 0
    args = parser.parse_args(words)
    args.program, args.typed = parser.prog, f"{parser.prog} {shlex.join(words)}"
    if args.plays and not args.quiet and _compiles():
        sys.stderr.write("The first run compiles, which takes some twenty seconds more.\n")
    try:
        with _doubts_said():
            return _command(args)(args)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted{_goes_on(args)}.\n")
        return 130


def _goes_on(args: argparse.Namespace) -> str:
    """Return what continues a command that was interrupted, in words; nothing does of some."""
    if not args.goes_on(args):
        return ""
    without = " without --fresh" if getattr(args, "fresh", False) else ""
    return f"; the same command{without} goes on"


def _compiles() -> bool:
    """Return whether nothing was compiled yet that a run could take up."""
    elsewhere = os.environ.get("NUMBA_CACHE_DIR")
    place = Path(__file__).parents[1] if elsewhere is None else Path(elsewhere)
    kept = os.access(place, os.W_OK) or elsewhere is not None  # else the home folder has it
    return kept and next(place.rglob("*.nbi"), None) is None


def _program() -> str:
    """Return how the program was called."""
    return "robustmarl" if Path(sys.argv[0]).stem == "robustmarl" else "python -m robustmarl"


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command, imported only now."""
    module, _, name = args.run.partition(":")
    command: Callable[[argparse.Namespace], int]
    command = getattr(importlib.import_module(f"robustmarl.cli.{module}"), name)
    return command


@contextmanager
def _doubts_said() -> Iterator[None]:
    """Say in a line each what is to be doubted of figures."""
    from robustmarl.typing import RobustnessWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RobustnessWarning)
        try:
            yield
        finally:
            said = {str(one.message): one for one in caught}  # once, whatever it was said of
            for one in said.values():
                if issubclass(one.category, RobustnessWarning):
                    sys.stderr.write(f"! {one.message}\n")
                else:
                    told = one.message, one.category, one.filename, one.lineno
                    sys.stderr.write(warnings.formatwarning(*told))
