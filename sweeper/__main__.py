"""`python -m sweeper`."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]) != Path(__file__).parents[1]:
    del sys.path[0]  # the current folder: a file there must not take the place of a library

from sweeper.cli.main import main

sys.exit(main())
