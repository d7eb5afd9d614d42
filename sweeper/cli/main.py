"""The command line: the table of verbs, and the one place that turns errors into exit codes."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from sweeper.cli import run, show, submit
from sweeper.core.errors import SweeperError
from sweeper.core.files import private_files

VERBS: dict[str, Callable[..., int | None]] = {
    "run": run.run,
    "resume": run.resume,
    "stop": run.stop,
    "pause": run.pause,
    "continue": run.unpause,
    "submit": submit.submit,
    "status": submit.status,
    "logs": submit.logs,
    "validate": show.validate,
    "schema": show.schema,
    "list": show.list_sweeps,
    "show": show.show,
    "best": show.best,
    "ui": show.ui,
    "sync": show.sync,
    "doctor": show.doctor,
}

EXIT_CODES = {
    0: "done, or stopped as asked",
    1: "an error, or no trial completed; `doctor` found a fault",
    2: "what was asked for is wrong; nothing was started",
    3: "done, but some trials failed",
    69: "MLflow, or the cluster that is asked, cannot be reached",
    74: "the study's database or the sweep's folder cannot be used",
    75: "Ray died, or no node had room for long; the same command goes on",
    130: "stopped by Ctrl-C; the same command goes on from there",
    143: "stopped by SIGTERM; likewise",
}

app = typer.Typer(
    help="Hyperparameter sweeps that lose nothing: Optuna decides, Ray Tune runs, MLflow shows.",
    epilog="[bold]Exit codes[/]\n" + "\n".join(f"{code:>4}  {meaning}" for code, meaning in EXIT_CODES.items()),
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from sweeper.cli.console import emit

        emit(f"sweeper {version('sweeper')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _root(version: _Version = False) -> None:
    pass


for _verb, _function in VERBS.items():
    app.command(_verb)(_function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the only place that turns errors into exit codes.

    An error is one red line on stderr, below its traceback with `--debug`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a result is shown wherever it goes, be it in ASCII
    try:
        with private_files(), _log_shown():
            return app(arguments, prog_name="sweeper", standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        return _print_failure(error, f"{error.format_message().rstrip('.')}{hint}", error.exit_code, debug=debug)
    except SweeperError as error:
        return _print_failure(error, str(error), error.exit_code, debug=debug)
    except BrokenPipeError:  # as in `sweeper show NAME | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        hint = "" if debug else " (--debug shows where)"
        return _print_failure(error, f"{type(error).__name__}: {error}{hint}", 1, debug=debug)


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from sweeper.cli.console import print_warning

        print_warning(self.format(record))


@contextmanager
def _log_shown() -> Iterator[None]:
    """Show what any module warns of; Python itself would print it as it is, with passwords and all."""
    log, root = _Log(logging.WARNING), logging.getLogger()
    root.addHandler(log)
    try:
        yield
    finally:
        root.removeHandler(log)


def _print_failure(error: Exception, message: str, code: int, *, debug: bool) -> int:
    from sweeper.cli.console import print_error, print_traceback

    if debug:
        print_traceback(error)
    print_error(message)
    return code
