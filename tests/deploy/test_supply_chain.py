"""What is installed is what was locked: versions, digests, licences and a bill of materials."""

import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy/locks"
NAMES = sorted(path.stem for path in LOCKS.glob("*.txt"))
PERMISSIVE = re.compile(r"MIT|BSD|Apache|PSF|Python Software Foundation|ISC|MPL|Mozilla Public License")


def pins(path):
    return {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([\w.+!]+)", path.read_text())}


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_a_lock_has_a_digest(name):
    entries = re.split(r"(?m)^(?=[\w.-]+==)", (LOCKS / f"{name}.txt").read_text())[1:]
    assert entries
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]


@pytest.mark.parametrize("name", ["runtime", "test", "browser", "torch", "torch-cpu"])
def test_a_lock_has_the_versions_of_the_constraints(name):
    constraints = pins(ROOT / "constraints.txt")
    assert pins(LOCKS / f"{name}.txt").items() <= constraints.items(), "run `make locks`"


@pytest.mark.parametrize(
    ("name", "source"), [("peers", "tests/benchmarks/peers.txt"), ("swift", "tests/servers/swift.txt"), ("tools", "deploy/tools.txt")]
)
def test_a_lock_has_what_its_list_names(name, source):
    assert pins(ROOT / source).items() <= pins(LOCKS / f"{name}.txt").items(), "run `make locks`"


def test_the_locks_are_complete():
    wanted, seen = ["monosem"], set()
    locked = {**pins(LOCKS / "runtime.txt"), **pins(LOCKS / "torch-cpu.txt"), **pins(LOCKS / "build.txt")}
    while wanted:
        for requirement in map(Requirement, importlib.metadata.requires(wanted.pop()) or []):
            name = canonicalize_name(requirement.name)
            if name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                seen.add(name)
                wanted.append(name)
    extras = {"aiohttp-cors", "colorful", "opencensus", "virtualenv"} & set(locked)  # of ray[default], whose extra is not followed here
    assert seen - set(locked) - {"cuda-bindings"} == set(), "run `make locks`"
    assert extras


def test_pip_refuses_a_file_with_another_digest(tmp_path):
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"tiny==1.0 --hash=sha256:{'0' * 64}\n")
    [flags] = set(re.findall(r"--require-hashes --no-deps", (ROOT / "deploy/install.sh").read_text()))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *flags.split(),
        "--no-index",
        "--find-links",
        tmp_path,
        "--target",
        tmp_path / "to",
        "-r",
        lock,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_nothing_is_installed_past_the_locks():
    # The oldest packages are what a resolver finds: only `test-lowest` installs them, into an environment of its own.
    made = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--resolution lowest-direct" not in line]
    for line in (line for line in made if "pip" in line and "install " in line and "monosem" not in line and ":=" not in line):
        assert "$(LOCKED)" in line or "--no-deps --no-build-isolation -e ." in line, line


def test_every_dependency_stands_in_the_list_of_licences_and_may_be_used_with_ours():
    _head, *rows = re.findall(r"(?m)^\| ([\w.-]+) \| ([\w.+]+) \| (.+) \|$", (ROOT / "docs/licences.md").read_text())
    listed = {canonicalize_name(name): version for name, version, _ in rows}
    locked = {**pins(LOCKS / "runtime.txt"), **pins(LOCKS / "torch-cpu.txt"), **pins(LOCKS / "build.txt")}
    assert listed == locked, "run `make licences`"
    assert [(name, licence) for name, _, licence in rows if not PERMISSIVE.search(licence)] == []


def test_the_bill_of_materials_names_every_installed_package(tmp_path):
    tool = ROOT / ".venv-tools/bin/cyclonedx-py"
    written = tmp_path / "sbom.json"
    command = [tool, "environment", "--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--of", "JSON", "-o", written, sys.prefix]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    bill = json.loads(written.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    named = {canonicalize_name(component["name"]) for component in bill["components"]}
    assert set(pins(LOCKS / "runtime.txt")) <= named
    assert all(component["licenses"] for component in bill["components"] if component["name"] in ("torch", "pyarrow", "numpy"))
