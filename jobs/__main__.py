"""`python -m jobs` is `monosem`."""

import sys

from jobs.cli import main

sys.exit(main())
