"""What sweeper does from end to end: it runs a sweep (start reading in `sweep`), plans one, trains a trial again."""

from sweeper.analysis.result import SweepResult
from sweeper.run.promote import saved_model
from sweeper.run.report import report_page
from sweeper.run.sweep import run_sweep

__all__ = ["SweepResult", "report_page", "run_sweep", "saved_model"]
