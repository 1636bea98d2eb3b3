"""A missing optional package is named together with the extra that brings it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sae
from sae.extras import EXTRAS, installation_advice

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMES = {"sklearn": "scikit-learn", "botocore": "s3fs", "aiobotocore": "s3fs", "transformer_lens": "transformer-lens"}

# Finds none of the optional packages, as in an environment without them.
BARE = f"""
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {sorted(EXTRAS)} else self.finder.find_spec(name, path, target)
present = sys.meta_path[:]
sys.meta_path[:] = [Without(finder) for finder in present]
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", BARE + code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_brings_each_optional_package(package):
    brought = {re.split(r"[<>=\[]", each)[0] for each in DECLARED["optional-dependencies"][EXTRAS[package]]}
    assert NAMES.get(package, package) in brought
    assert not brought & {re.split(r"[<>=\[]", each)[0] for each in DECLARED["dependencies"]}, "what is always installed is no extra"


def test_other_packages_have_no_advice():
    assert installation_advice(ModuleNotFoundError("No module named 'other'", name="other")) is None


def test_a_dictionary_is_trained_saved_loaded_and_encodes_without_any_optional_package(tmp_path):
    code = """
import numpy, sae, torch
vectors = numpy.random.default_rng(0).normal(size=(4000, 8)).astype("float32")
dictionary = sae.train(vectors, sae.TopK(d_sae=16, k=2), batch_size=500)
sae.save_dictionary(sys.argv[1], dictionary)
print(tuple(sae.load_dictionary(sys.argv[1]).encode(torch.from_numpy(vectors[:3])).shape), sae.measure(dictionary, vectors).l0)
"""
    ended = run(code, str(tmp_path / "dictionary"))
    assert (ended.returncode, ended.stdout) == (0, "(3, 16) 2.0\n"), ended.stderr


def test_what_needs_a_language_model_names_the_extra():
    ended = run('import sae; sae.Subject.load("embedded")')
    assert ended.stderr.splitlines()[-1].endswith("pip install 'monosem[models]'"), ended.stderr


def test_a_command_names_the_extra_in_one_line(tmp_path):
    ended = run("import jobs.cli; sys.exit(jobs.cli.main(sys.argv[1:]))", "harvest", f"output={tmp_path}/run")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("monosem: this needs the package ")
    assert "Traceback" not in ended.stderr


def test_no_public_name_of_the_library_imports_ray():
    assert len(sae.__all__) > 15
    ended = run("import sae; sys.meta_path[:] = present; [getattr(sae, name) for name in sae.__all__]; print('ray' in sys.modules)")
    assert (ended.returncode, ended.stdout) == (0, "False\n"), ended.stderr
