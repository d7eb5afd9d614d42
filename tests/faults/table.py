"""The table of docs/reliability.md, from files that `pytest --junitxml=FILE` wrote.

Usage: python -m tests.faults.table FILE ...
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree


def runs(files: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the fault, the seed, what was seen and the result of each test; a failed one recorded only its name."""
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            recorded = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
            if case.find("skipped") is not None:
                continue
            failed = case.find("failure") is not None or case.find("error") is not None
            yield {
                "fault": str(case.get("name")).partition("[")[0],
                **recorded,
                "result": "failed" if failed else "survived",
            }


def table(files: Iterable[str]) -> str:
    """Return a table with a row for each fault; it shows what the run of the last seed saw."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for run in runs(files):
        if "seed" in run or run["result"] == "failed":
            rows[run["fault"]].append(run)
    lines = ["| Fault | What happens | Seeds | Result |", "|---|---|---|---|"]
    for fault, found in rows.items():
        seeds = ", ".join(sorted({run["seed"] for run in found if "seed" in run}))
        survived = sum(run["result"] == "survived" for run in found)
        seen = found[-1].get("seen", "")
        lines.append(f"| {fault} | {seen} | {seeds} | {survived} of {len(found)} survived |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1:]))
