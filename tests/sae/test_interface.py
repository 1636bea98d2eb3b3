"""What `import sae` gives: these names, each with a docstring, at once and without what a cluster needs."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sae
from sae.training import on_vectors

NAMES = {
    "BatchTopK", "Gated", "JumpReLU", "Matryoshka", "PAnnealing", "ReLU", "ReLUApril", "Tied", "TopK",
    "Run", "Store", "Subject", "evaluate", "harvest", "interpret", "load_dictionary", "measure", "register", "save_dictionary",
    "train", "write_report", "write_store", "__version__",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(sae.__all__) == NAMES
    assert dir(sae) == sae.__all__


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_name_is_there_and_says_what_it_is(name):
    assert getattr(sae, name).__doc__.strip().split("\n")[0].endswith(".")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Train'; it has BatchTopK, .*train"):
        _ = sae.Train


def imported(code):
    """Which of the heavy packages a program has imported at its end."""
    ask = "import sys; print([name for name in ('torch', 'ray', 'matplotlib', 'transformer_lens', 'openai') if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_costs_nothing_and_training_needs_torch_alone():
    assert imported("import sae, sae.errors, sae.config") == "[]"
    assert imported("import sae, torch\nsae.train(torch.rand(100, 4), sae.TopK(d_sae=8, k=2), batch_size=50)") == "['torch']"


def test_every_stage_can_be_imported_without_ray():
    assert "ray" not in imported("import sae\nfor name in sae.__all__: getattr(sae, name)")


@pytest.mark.parametrize("module", [sae, on_vectors], ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0


def test_a_dictionary_says_what_it_is_and_where_it_comes_from(tmp_path):
    dictionary = sae.train(torch.rand(100, 4), sae.TopK(d_sae=8, k=2), batch_size=50)
    assert repr(dictionary) == "TopKDictionary(d_in=4, d_sae=8, k=2)"
    assert dictionary.hookpoint is None
    sae.save_dictionary(tmp_path, dictionary, {"hookpoint": "blocks.0.mlp.hook_post", "subject": "gpt2"})
    loaded = sae.load_dictionary(tmp_path)
    assert loaded.hookpoint == "blocks.0.mlp.hook_post"
    assert repr(loaded) == "TopKDictionary(d_in=4, d_sae=8, k=2, hookpoint='blocks.0.mlp.hook_post', subject='gpt2')"
    sae.save_dictionary(tmp_path / "again", loaded)
    assert sae.load_dictionary(tmp_path / "again").origin == loaded.origin


def test_the_block_of_the_readme_finds_most_of_what_was_planted():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [code] = re.findall(r"```python\n(import torch\nimport sae\n.*?)```", readme, flags=re.DOTALL)
    assert len(code.splitlines()) <= 12
    torch.manual_seed(0)
    names = {}
    exec(code, names)
    found = (torch.nn.functional.normalize(names["dictionary"].W_dec) @ names["directions"].T).max(dim=0).values
    assert (found > 0.9).double().mean() > 0.7
    assert names["measured"].fvu < 0.4
