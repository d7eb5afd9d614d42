"""The confirmation of the best trials of a search: what their fresh runs gave, and whether a lead is mere noise."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.core.trials import FreshRun


@dataclass(frozen=True)
class Contender:
    """One of the best trials of a search, which is trained again: its fresh runs that have ended, beside its value.

    `half_width` is that of the 95 % interval around the mean; None before two runs, or if it was dropped. `dropped`
    says why it gets no more runs; it is empty while the trial may still win.
    """

    trial: int
    searched: float
    values: tuple[float, ...] = ()
    half_width: float | None = None
    dropped: str = ""

    @property
    def mean(self) -> float | None:
        return sum(self.values) / len(self.values) if self.values else None


@dataclass(frozen=True)
class McNemar:
    """Validation samples that only the best model gets right (`n10`), or only another (`n01`); or what is `missing`."""

    against: str
    samples: int = 0
    n10: int = 0
    n01: int = 0
    missing: str = ""

    @property
    def p_value(self) -> float:
        """How likely chance alone parts them so unevenly: the exact test (McNemar, Psychometrika 12, 1947)."""
        from scipy.stats import binomtest

        return float(binomtest(self.n10, self.n10 + self.n01).pvalue) if self.n10 + self.n01 else 1.0


@dataclass(frozen=True)
class Confirmation:
    """The best trials, trained again with fresh seeds: the best mean first, those that were dropped last.

    `missing` are the runs that may begin now; it is complete when all runs that count have ended. `p_value` says how
    likely chance alone sets the means of the first two so far apart (Welch's t test); None if that is unknown.
    `compared` is the test of the best model against the runner-up's, and against the champion of the registry.
    """

    contenders: tuple[Contender, ...]
    seeds: int
    missing: tuple[FreshRun, ...] = ()
    is_complete: bool = False
    p_value: float | None = None
    compared: tuple[McNemar, ...] = ()

    @property
    def best(self) -> Contender | None:
        """Contender with the best confirmed mean; None until it is complete, or if each contender has failed."""
        return next((each for each in self.contenders if self.is_complete and not each.dropped), None)
