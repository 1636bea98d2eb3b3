"""Every machine runs the same code: what is installed is what constraints.txt pins, and it fits together."""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#"))
INSTALLERS = {"pip", "setuptools", "wheel"}  # of the environment, not of the project


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_pinned_exactly():
    assert all(re.fullmatch(r"[\w.!+-]+", version) for version in PINNED.values())
    pinned = {plain(name): version for name, version in PINNED.items()}
    # Of the environment itself: Ray, once imported, adds a directory of its own copies to the path.
    found = importlib.metadata.distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    installed = {plain(each.name): each.version for each in found}
    ours = {name: version for name, version in installed.items() if name not in INSTALLERS | {"monosem"}}
    other = {
        name: (version, pinned.get(name)) for name, version in ours.items() if version.partition("+")[0] != pinned.get(name, "").partition("+")[0]
    }
    assert other == {}, "installed, and pinned: run `make install-test`, or `make constraints` after a change of dependencies"


def test_what_is_installed_fits_together():
    ended = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout
