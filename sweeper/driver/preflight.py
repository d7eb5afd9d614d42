"""Checks that refuse a sweep before anything is created or started."""

from __future__ import annotations

import os

from sweeper.core.errors import InputError
from sweeper.core.files import check_writable_file, check_writable_folder, temporary_folder
from sweeper.core.sweep_folder import SweepFolder
from sweeper.core.urls import problem_of_address, sqlite_path
from sweeper.spec import Resources, Sweep
from sweeper.study.database_url import check_database_url

MIN_RAY_BYTES = 4_000_000
"""Space that Ray's files take at its start. Without it, Ray reports a timeout after half a minute."""


def preflight(sweep: Sweep, *, folder: SweepFolder, address: str | None, tracking_uri: str) -> Sweep:
    """Refuse a sweep that cannot run as it is; return it with the dataset that it will use.

    Raises:
        InputError: the sweep cannot be run as it is.
        ResourceError: the sweep would run on this machine, which could never run one of its trials.
        DatasetError: the data is missing.
    """
    cluster = address or os.environ.get("RAY_ADDRESS")
    if cluster and (fault := problem_of_address(cluster)):
        raise InputError(f"the address of the Ray cluster {fault}")
    if is_on_this_machine(address):
        _check_machine(sweep)
        check_writable_folder(
            temporary_folder(), "Ray keeps its files there: set RAY_TMPDIR to another folder", room=MIN_RAY_BYTES
        )
    check_database_url(sweep.storage_url())
    if (file := sqlite_path(tracking_uri)) is not None:
        check_writable_file(file, "choose another MLflow store with --tracking-uri")
    check_writable_folder(folder.path, "choose another with --dir")
    if folder.remote is not None:
        folder.remote.check()
    if sweep.dataset is None:
        return sweep
    return sweep.model_copy(update={"dataset": sweep.dataset.resolve()})


def is_on_this_machine(address: str | None) -> bool:
    """Return whether a sweep starts a Ray of its own, instead of joining a cluster."""
    return (address or os.environ.get("RAY_ADDRESS")) in (None, "", "local")


def _check_machine(sweep: Sweep) -> None:
    if sweep.resources == Resources():  # every machine has that, and Ray takes half a second to import
        return
    from sweeper.driver.capacity import allowed_cpus, refuse_infeasible
    from sweeper.driver.ray_internals import detect_local_resources

    refuse_infeasible(sweep, [detect_local_resources(allowed_cpus())], "this machine")
