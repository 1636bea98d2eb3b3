"""`monosem export` and `monosem import` on the command line."""

import torch

import sae
from jobs.cli import main
from sae.architectures.config import TopKConfig
from sae.architectures.registry import build_dictionary
from sae.checkpoint import save_dictionary
from sae.storage import Place


def test_a_dictionary_goes_out_and_comes_back(tmp_path, capsys):
    dictionary = build_dictionary(TopKConfig(d_sae=32, k=3), 8)
    dictionary.input_scale.fill_(1.7)
    save_dictionary(Place(tmp_path / "ours"), dictionary, {"hookpoint": "blocks.0.mlp.hook_post"})
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--format", "sparsify", "--license", "mit"]) == 0
    assert 'license: "mit"' in (tmp_path / "theirs" / "README.md").read_text()
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    shown = capsys.readouterr().out
    assert "export: 8 → 32 features (topk) in the layout of sparsify" in shown
    assert "import: 8 → 32 features (topk)" in shown
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(sae.load_dictionary(tmp_path / "back").encode(x), dictionary.encode(x))
    assert main(["show", str(tmp_path / "back")]) == 0
    assert "a topk dictionary 'back', 8 → 32, imported from the layout of sparsify" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["import", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "holds no dictionary of a known layout" in capsys.readouterr().err
