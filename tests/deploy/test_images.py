"""The images: pinned, without root, nothing downloaded at the start, and made of files that exist."""

import fnmatch
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs.cli import VERBS

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "deploy/Dockerfile", ROOT / "deploy/Dockerfile.browser"]


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str

    @property
    def words(self):
        return shlex.split(self.text)

    @property
    def flags(self):
        return [word for word in self.words if word.startswith("--")]

    @property
    def arguments(self):
        return [word for word in self.words if not word.startswith("--")]


def instructions(path):
    lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in text.splitlines() if line.strip()]


def stages(path):
    """The instructions of each stage, from its FROM on."""
    found = []
    for each in instructions(path):
        if each.name == "FROM":
            found.append([])
        if found:
            found[-1].append(each)
    return found


def named(found, name):
    return [each for each in found if each.name == name]


SERVING = """
import sys
sys.path[1:1] = sys.argv[2:]
import s3fs
from jobs.cli import main
sys.exit(main(["serve", sys.argv[1], "--port", "0"]))
"""

every_image = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


@every_image
class TestEveryImage:
    def test_the_base_is_pinned_to_a_version_that_the_package_takes(self, path):
        [argument] = [each.text for each in instructions(path) if each.name == "ARG"]
        version = re.fullmatch(r"PYTHON_IMAGE=python:(3\.\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}", argument)
        assert version
        assert version[1] == "3.11"
        assert {stage[0].words[0] for stage in stages(path)} == {"${PYTHON_IMAGE}"}

    def test_both_images_have_one_base(self, path):
        assert instructions(path)[0] == instructions(FILES[0])[0]

    def test_what_is_copied_exists_and_is_not_ignored(self, path):
        kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        copied = [source for each in named(instructions(path), "COPY") if not each.flags for source in each.arguments[:-1]]
        assert copied
        for source in copied:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), f"{source} is not sent to the build"
        assert not named(instructions(path), "ADD")

    def test_stages_copy_from_stages_that_exist(self, path):
        names = {stage[0].words[-1] for stage in stages(path) if "AS" in stage[0].words}
        sources = {flag.partition("=")[2] for each in named(instructions(path), "COPY") for flag in each.flags}
        assert sources <= names

    def test_everything_installed_is_pinned(self, path):
        commands = [
            part
            for each in named(instructions(path), "RUN")
            for part in re.split(r"&&|;", each.text)
            if "install" in part and "pip uninstall" not in part
        ]
        dependencies, package = commands
        assert "deploy/install.sh python runtime" in dependencies or "--require-hashes --no-deps" in dependencies
        assert "--no-deps --no-build-isolation ." in package  # nothing is fetched for the build either

    def test_nobody_is_root_and_root_writes_nothing_later(self, path):
        last = stages(path)[-1]
        [user] = named(last, "USER")
        assert user.text == "1000:1000"  # a number: Kubernetes cannot tell whether a name is root
        assert not [each for each in last[last.index(user) :] if each.name in ("RUN", "COPY")]

    def test_all_that_is_written_goes_to_tmp(self, path):
        variables = dict(word.split("=", 1) for each in named(stages(path)[-1], "ENV") for word in each.words)
        places = {name: value for name, value in variables.items() if value.startswith("/")}
        assert places["HOME"] == "/tmp/home"
        assert all(value.startswith("/tmp/") for value in places.values())
        assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
        assert [each.text for each in named(stages(path)[-1], "WORKDIR")] == ["/tmp"]

    def test_it_starts_by_words_not_by_a_shell(self, path):
        last = stages(path)[-1]
        [entry], [command] = named(last, "ENTRYPOINT"), named(last, "CMD")
        words = json.loads(entry.text) + json.loads(command.text)
        assert words == ["monosem", "--help"]

    def test_no_secret_is_baked_in(self, path):
        for each in instructions(path):
            if each.name in ("ARG", "ENV"):
                assert not re.search(r"(?i)(secret|token|password|access_key)", each.text)

    def test_the_version_is_the_packages(self, path):
        version = importlib.metadata.version("monosem")
        assert f'org.opencontainers.image.version="{version}"' in path.read_text()


class TestBrowserImage:
    def requirements(self):
        lines = (ROOT / "deploy/browser-requirements.txt").read_text().splitlines()
        return {canonicalize_name(line) for line in lines if line and not line.startswith("#")}

    def closure(self):
        """The distributions that installing the requirements brings."""
        found, waiting = set(), list(self.requirements())
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            needs = (Requirement(text) for text in importlib.metadata.requires(name) or [])
            waiting += [canonicalize_name(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        return found

    def test_its_requirements_are_pinned_and_the_packages_own(self):
        pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
        assert self.requirements() <= pinned
        declared = {canonicalize_name(Requirement(text).name) for text in importlib.metadata.requires("monosem")}
        assert self.requirements() <= declared | {"aiohttp"}

    def test_it_is_small(self):
        assert not self.closure() & {"torch", "ray", "transformers", "transformer-lens", "pandas", "scipy", "matplotlib"}

    def test_it_runs_with_nothing_else_installed(self, tmp_path):
        (tmp_path / "report.html").write_text("<!doctype html>")
        installed = tmp_path / "installed"
        installed.mkdir()
        for name in self.closure():
            distribution = importlib.metadata.distribution(name)
            for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
                (installed / top).symlink_to(distribution.locate_file(top))
        command = [sys.executable, "-S", "-c", SERVING, tmp_path, installed, ROOT]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            assert "event=serving" in process.stderr.readline()
            process.terminate()
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 143, said
        assert said.splitlines()[-1].startswith("monosem: interrupted by SIGTERM; ")

    def test_it_knows_the_verb_it_is_for(self):
        assert "serve" in VERBS


class TestRayImage:
    def test_the_ready_configurations_are_in_it(self):
        assert ["jobs/configs", "/opt/monosem/configs"] in [each.arguments for each in named(instructions(FILES[0]), "COPY")]

    def test_the_allocator_is_set_as_in_the_makefile(self):
        made = dict(re.findall(r"(?m)^export (MALLOC\w+) := (\d+)$", (ROOT / "Makefile").read_text()))
        variables = dict(word.split("=", 1) for each in named(stages(FILES[0])[-1], "ENV") for word in each.words)
        assert made
        assert made.items() <= variables.items()
