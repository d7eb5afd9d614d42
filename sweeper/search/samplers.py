"""Samplers, which choose the parameters of the next trial: one class for each of Optuna's, options under its names."""

from __future__ import annotations

from abc import abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from sweeper.core.errors import InputError
from sweeper.core.schema import Integer, Number, Seed, StrictModel
from sweeper.core.text import format_list
from sweeper.search.space import GRID_LIMIT, Constant, Float, Int, Space, grid, grid_size

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from sweeper.search.seeding import SeededByTrial


class _Sampler(StrictModel):
    seed: Seed | None = Field(None, description="Seed of the sampler; by default the sweep's.")

    REQUIRES: ClassVar[tuple[str, str] | None] = None
    """Module that is not always installed, and the extra of sweeper that installs it."""

    TAKES_GOALS: ClassVar[bool] = True
    """Whether it searches for several goals at once."""

    def chosen(self, space: Space, trials: int | None) -> Any:
        """Return the options of the sampler that is used: these, unless they leave the choice to sweeper."""
        return self

    def build(self, space: Space, *, seed: int, trials: int | None = None) -> SeededByTrial:
        """Return the sampler for a sweep of `trials` trials; None: unlimited.

        Raises:
            InputError: the sampler needs a package that is not installed.
        """
        from sweeper.search.seeding import SeededByTrial

        if message := self.missing_package():
            raise InputError(message)
        return SeededByTrial(self._build(space, seed=seed, trials=trials), seed)

    @abstractmethod
    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler: ...

    def missing_package(self) -> str | None:
        """Return how to install what the sampler needs; None if it is installed."""
        if self.REQUIRES is None or find_spec(self.REQUIRES[0]) is not None:
            return None
        return f"this sampler needs: pip install 'sweeper[{self.REQUIRES[1]}]'"

    def unsupported_reason(self, space: Space) -> str | None:
        """Return why the sampler cannot search this space; None if it can."""
        return None

    def random_trials(self, trials: int) -> int:
        """Return how many trials begin before values of others count, in a sweep of so many trials."""
        return trials


class Tpe(_Sampler):
    """Tree-structured Parzen estimator, Optuna's default; useful from about ten trials on."""

    type: Literal["tpe"] = "tpe"
    n_startup_trials: Annotated[Integer, Field(ge=0)] | None = Field(
        None, description="Random trials before the model is used; by default a third of the trials, 4 to 10."
    )
    n_ei_candidates: Annotated[Integer, Field(ge=1, le=10_000)] = Field(
        24, description="Candidates to compare for each proposal."
    )
    constant_liar: bool = Field(True, description="Avoid points close to those that are running.")

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from sweeper.search.bounded import BoundedTPESampler

        return BoundedTPESampler(
            n_startup_trials=_startup(self.n_startup_trials, trials),
            n_ei_candidates=self.n_ei_candidates,
            constant_liar=self.constant_liar,
            seed=seed,
        )

    def random_trials(self, trials: int) -> int:
        return min(trials, _startup(self.n_startup_trials, trials))


class Random(_Sampler):
    """Independent random points."""

    type: Literal["random"] = "random"

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class Grid(_Sampler):
    """Every point of the space once, in random order; inactive parameters add no points."""

    type: Literal["grid"] = "grid"

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from sweeper.search.grid import GridSampler

        constants = [name for name, domain in space.items() if isinstance(domain, Constant)]
        return GridSampler(grid(space), seed=seed, constants=constants)

    def unsupported_reason(self, space: Space) -> str | None:
        endless = [name for name, domain in space.items() if domain.count() is None]
        if endless:
            return f"a grid needs a step for {format_list(endless)}; add step:, or choose type: qmc"
        size = grid_size(space)
        if size is None or size > GRID_LIMIT:
            count = f"{size:,}" if size and size < 10**18 else "too many"
            return f"the grid has {count} points, more than {GRID_LIMIT:,}; choose type: qmc"
        return None


class Qmc(_Sampler):
    """Quasi-random points, which cover the space more evenly than random ones."""

    type: Literal["qmc"] = "qmc"
    qmc_type: Literal["sobol", "halton"] = Field("sobol", description="Quasi-random sequence.")
    scramble: bool = Field(
        True, description="Randomise the sequence; without it, the first points lie in a corner of the space."
    )

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from optuna.samplers import QMCSampler

        from sweeper.search.optuna_internals import experimental
        from sweeper.search.seeding import CountedRandomSampler

        # The study records the place in the sequence under the seed.
        with experimental():
            return QMCSampler(
                qmc_type=self.qmc_type,
                scramble=self.scramble,
                seed=seed,
                independent_sampler=CountedRandomSampler(seed=seed),
                warn_independent_sampling=False,
            )


class CmaEs(_Sampler):
    """Covariance matrix adaptation (CMA-ES), for several numeric parameters and more than a hundred trials."""

    REQUIRES: ClassVar[tuple[str, str] | None] = ("cmaes", "cmaes")
    TAKES_GOALS: ClassVar[bool] = False
    type: Literal["cmaes"] = "cmaes"
    n_startup_trials: Annotated[Integer, Field(ge=0)] = Field(
        1, description="Random trials before the first generation."
    )
    popsize: Annotated[Integer, Field(ge=2, le=10_000)] | None = Field(
        None, description="Trials per generation; by default 4 + 3 ln(parameters)."
    )
    with_margin: bool = Field(False, description="Give every value of a parameter with steps a chance.")
    consider_pruned_trials: bool = Field(
        False, description="Learn from pruned trials too; recommended with hyperband, not with median."
    )

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        from sweeper.search.optuna_internals import experimental
        from sweeper.search.seeding import CountedRandomSampler

        with experimental():
            return CmaEsSampler(
                n_startup_trials=self.n_startup_trials,
                popsize=self.popsize,
                with_margin=self.with_margin,
                consider_pruned_trials=self.consider_pruned_trials,
                independent_sampler=CountedRandomSampler(seed=seed),
                warn_independent_sampling=False,
                seed=seed,
            )

    def random_trials(self, trials: int) -> int:
        return min(trials, self.n_startup_trials)

    def unsupported_reason(self, space: Space) -> str | None:
        numeric = [d for d in space.values() if isinstance(d, Float | Int) and d.low < d.high and not d.when]
        if len(numeric) < 2:
            return "cmaes searches float and int parameters without when, and needs two of them; choose type: tpe"
        return None


class Gp(_Sampler):
    """Gaussian process, for few and expensive trials."""

    REQUIRES: ClassVar[tuple[str, str] | None] = ("torch", "gp")
    type: Literal["gp"] = "gp"
    n_startup_trials: Annotated[Integer, Field(ge=0)] | None = Field(
        None, description="Random trials before the model is used; by default a third of the trials, 4 to 10."
    )
    deterministic_objective: bool = Field(False, description="Assume that the same point always gives the same value.")

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from optuna.samplers import GPSampler

        from sweeper.search.optuna_internals import experimental
        from sweeper.search.seeding import CountedRandomSampler

        with experimental():
            return GPSampler(
                n_startup_trials=_startup(self.n_startup_trials, trials),
                deterministic_objective=self.deterministic_objective,
                independent_sampler=CountedRandomSampler(seed=seed),
                warn_independent_sampling=False,
                seed=seed,
            )

    def random_trials(self, trials: int) -> int:
        return min(trials, _startup(self.n_startup_trials, trials))


class Nsga2(_Sampler):
    """Non-dominated sorting genetic algorithm (NSGA-II), for several goals and some hundred trials."""

    type: Literal["nsga2"] = "nsga2"
    population_size: Annotated[Integer, Field(ge=2, le=10_000)] | None = Field(
        None, description="Trials per generation, the first one random; by default a fifth of the trials, 4 to 50."
    )
    mutation_prob: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="Probability that a parameter is drawn anew; by default one of each trial."
    )

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        from sweeper.search.optuna_internals import start_with
        from sweeper.search.seeding import CountedRandomSampler

        size = self._population(trials)
        sampler = NSGAIISampler(population_size=size, mutation_prob=self.mutation_prob, seed=seed)
        start_with(sampler, CountedRandomSampler(seed=seed))
        return sampler

    def random_trials(self, trials: int) -> int:
        return min(trials, self._population(trials))

    def _population(self, trials: int | None) -> int:
        if self.population_size is not None:
            return self.population_size
        return 50 if trials is None else min(50, max(4, trials // 5))


class Auto(_Sampler):
    """The sampler that does best in docs/search.md: tpe; or a grid, if all points of the space fit in the budget."""

    type: Literal["auto"] = "auto"

    def chosen(self, space: Space, trials: int | None) -> Grid | Tpe:
        size = grid_size(space)
        if size is not None and size <= GRID_LIMIT and (trials is None or size <= trials):
            return Grid(seed=self.seed)
        return Tpe(seed=self.seed)

    def _build(self, space: Space, *, seed: int, trials: int | None) -> BaseSampler:
        built: BaseSampler = self.chosen(space, trials)._build(space, seed=seed, trials=trials)
        return built


Sampler = Annotated[Auto | Tpe | Random | Grid | Qmc | CmaEs | Gp | Nsga2, Field(discriminator="type")]


def _startup(wanted: int | None, trials: int | None) -> int:
    """Return the number of random trials. Optuna's 10 are too many in a sweep of 20."""
    if wanted is not None:
        return wanted
    return 10 if trials is None else min(10, max(4, trials // 3))
