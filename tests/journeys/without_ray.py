"""`monosem` on a machine where Ray is not installed: what imports it, fails."""

import sys

sys.modules["ray"] = None  # type: ignore[assignment]

from jobs.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
