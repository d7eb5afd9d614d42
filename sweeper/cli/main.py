"""The command line: the table of verbs, and the only place that turns errors into exit codes."""

from __future__ import annotations

import inspect
import io
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter
from typing import Annotated

import typer

from sweeper.cli import control, options, run
from sweeper.cli.check import plan, verbs
from sweeper.cli.cluster import fetch, reach, submit
from sweeper.cli.decide import confirm, export, predict, promote, reproduce
from sweeper.cli.look import compare, html, show, ui, watch
from sweeper.cli.streams import open_missing_streams, unfailing_streams
from sweeper.core.errors import CapacityError, StoppedError, StorageError, SweeperError
from sweeper.core.files import private_files

VERBS: dict[str, Callable[..., int | None]] = {
    "run": run.run,
    "resume": run.resume,
    "retry": run.retry,
    "stop": control.stop,
    "pause": control.pause,
    "unpause": control.unpause,
    "delete": control.delete,
    "submit": submit.submit,
    "status": submit.status,
    "logs": submit.logs,
    "fetch": fetch.fetch,
    "plan": plan.plan,
    "validate": verbs.validate,
    "schema": verbs.schema,
    "convert": verbs.convert,
    "list": show.list_sweeps,
    "show": show.show,
    "watch": watch.watch,
    "compare": compare.compare,
    "best": show.best,
    "report": html.report,
    "ui": ui.ui,
    "sync": ui.sync,
    "confirm": confirm.confirm,
    "promote": promote.promote,
    "predict": predict.predict,
    "export": export.export,
    "reproduce": reproduce.reproduce,
    "doctor": verbs.doctor,
}

PANELS: dict[str, tuple[str, ...]] = {
    "Run": ("run", "resume", "retry", "stop", "pause", "unpause", "delete"),
    "Look": ("list", "show", "watch", "compare", "report", "logs", "ui", "sync"),
    "Decide": ("best", "confirm", "promote", "predict", "export", "reproduce"),
    "Cluster": ("submit", "status", "fetch"),
    "Check": ("validate", "plan", "doctor", "convert", "schema"),
}
"""Groups of verbs in `sweeper --help`, in the order in which a person needs them."""

EXIT_CODES = {
    0: "done, or stopped by `sweeper stop` or its timeout",
    1: "an error, or no trial completed; a check of `doctor` failed",
    2: "the input is wrong; nothing was started",
    3: "done, but some trials failed",
    69: "done, but not all is in MLflow; or it or the cluster cannot be used",
    74: "the study's database, the sweep's folder or stdout cannot be used",
    75: "Ray died, or no node had room for long; the same command resumes",
    130: "stopped by Ctrl-C; the same command resumes",
    143: "stopped by SIGTERM or SIGHUP; the same command resumes",
}

app = typer.Typer(
    help="Hyperparameter sweeps from one YAML file: Optuna chooses the trials, Ray Tune runs them, MLflow shows them.",
    epilog="[bold]Exit codes[/]\n" + "\n".join(f"{code:>4}  {meaning}" for code, meaning in EXIT_CODES.items()),
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from sweeper.cli.report import emit

        emit(f"sweeper {version('sweeper')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _root(version: _Version = False) -> None:
    pass


def _with_debug(verb: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the option --debug to a verb. The verb does not get it: `main` reads it."""

    @wraps(verb)
    def run_verb(*, debug: bool, **arguments: object) -> int | None:
        return verb(**arguments)

    signature = inspect.signature(verb, eval_str=True)
    debug = Parameter("debug", Parameter.KEYWORD_ONLY, default=False, annotation=options.Debug)
    parameters = [*signature.parameters.values(), debug]
    run_verb.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run_verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run_verb


for _panel, _verbs in PANELS.items():
    for _verb in _verbs:
        app.command(_verb, rich_help_panel=_panel)(_with_debug(reach.reaching(VERBS[_verb])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code; print an error as one red line, with `--debug` below its traceback."""
    open_missing_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stdout may be limited to ASCII
    with unfailing_streams() as lost_output:
        code = _run_verb(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
        if (error := lost_output()) is not None:
            _print_failure(error, f"The results could not be written to stdout ({error.strerror}).", os.EX_IOERR)
            return os.EX_IOERR if code in (0, 3) else code
    return code


def _run_verb(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        with private_files(), _warnings_printed():
            return app(arguments, prog_name="sweeper", standalone_mode=False) or 0
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f"; see {context.command_path} --help" if context else ""
        return _print_failure(error, f"{error.format_message().rstrip('.')}{hint}", error.exit_code, debug=debug)
    except SweeperError as error:
        code = _print_failure(error, str(error), error.exit_code, debug=debug)
        can_resume = isinstance(error, StorageError | CapacityError | StoppedError)
        if can_resume and arguments[0] in ("run", "resume", "confirm"):
            from sweeper.cli.console import print_note

            print_note(f"The same command resumes the sweep: {shlex.join(['sweeper', *arguments])}")
        return code
    except Exception as error:
        hint = "" if debug else " (--debug shows where)"
        return _print_failure(error, f"{type(error).__name__}: {error}{hint}", 1, debug=debug)


class _PrintWarnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from sweeper.cli.console import print_warning

        print_warning(self.format(record))


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print the warnings of all modules with passwords masked; Python's own handler would print them as they are."""
    handler, root = _PrintWarnings(logging.WARNING), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _print_failure(error: Exception, message: str, code: int, *, debug: bool = False) -> int:
    """Print an error; with exit code 0, a note: the timeout was reached while the database was unavailable."""
    from sweeper.cli.console import print_error, print_note, print_traceback

    if debug:
        print_traceback(error)
    (print_error if code else print_note)(message)
    return code
