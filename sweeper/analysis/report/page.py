"""The page: sections in their order, laid out by a template into one HTML file that needs nothing beside itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from sweeper.analysis.report import course, outcome, parameters
from sweeper.analysis.report.material import Evaluated, Material, plain
from sweeper.analysis.report.parts import Section
from sweeper.core.environment import versions
from sweeper.core.text import first_line

if TYPE_CHECKING:
    from sweeper.study.view import StudyView

logger = logging.getLogger(__name__)

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    outcome.answer,
    parameters.front,
    outcome.confirmation,
    course.history,
    course.learning_curves,
    parameters.parallel_coordinates,
    parameters.importance,
    parameters.slices,
    parameters.contour,
    course.survival_by_rung,
    course.workers,
    course.failures,
    outcome.predictions,
    outcome.sweep_file,
    outcome.versions,
    outcome.reproduce,
)


def make_page(study: StudyView, tested: Evaluated, *, is_running: bool = False, moment: datetime | None = None) -> str:
    """Return the report on a sweep as an HTML page.

    Args:
        tested: what is known of the best trial beside the study.
        is_running: whether the sweep goes on; the page says so.
        moment: when the study was read; by default now.

    Raises:
        StorageError: the database cannot be read.
    """
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    material = Material.of(study, tested, is_running=is_running, moment=moment or datetime.now(UTC))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["code"] = _with_code
    return environment.from_string(_template()).render(
        name=plain(study.name),
        description=plain(study.sweep.description),
        state="running" if is_running else "",
        moment=material.moment.strftime("%Y-%m-%d %H:%M UTC"),
        storage=plain(study.storage),
        version=versions(["sweeper"]).get("sweeper", ""),
        sections=list(_sections(material)),
        plotly=get_plotlyjs(),
    )


def _sections(material: Material) -> Iterator[Section]:
    """Yield the sections; one that fails says so, and the others stay of use."""
    for make in SECTIONS:
        try:
            if (section := make(material)) is not None:
                yield section
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            name = make.__name__.replace("_", " ")
            problem = f"{type(error).__name__}: {plain(first_line(error))}"
            logger.warning("The report's section %r could not be made (%s).", name, problem)
            logger.debug("a section of the report failed", exc_info=True)
            yield Section(
                make.__name__.replace("_", "-"),
                name.capitalize(),
                missing=f"This section could not be made ({problem}). Please report it as a fault of sweeper.",
            )


def _with_code(text: str) -> str:
    """Escape a text, and mark up what stands between two backticks in it as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _template() -> str:
    return files("sweeper.analysis.report").joinpath("page.html.j2").read_text(encoding="utf-8")
