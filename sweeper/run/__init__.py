"""What sweeper does from end to end: it runs a sweep (start reading in `sweep`), plans one, reproduces a trial."""

from sweeper.analysis.result import SweepResult
from sweeper.run.sweep import report_page, run_sweep, saved_model

__all__ = ["SweepResult", "report_page", "run_sweep", "saved_model"]
