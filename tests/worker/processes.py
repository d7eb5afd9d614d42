"""Processes that a test has started, found by a mark in their environment."""

from __future__ import annotations

import psutil


def marked(mark: str) -> list[psutil.Process]:
    """Return the live processes that have inherited the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.environ().get("COMMAND_TEST_MARK", "") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def command_of(process: psutil.Process) -> str:
    """Return the command line of a process; "" if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
