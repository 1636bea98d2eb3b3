"""A second model: two layers, read and written at the residual stream between them; evaluated, its labels detected, its features explained."""

import json

import pyarrow as pa
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sae.subject.tokenization import SubjectTokenizer, save_tokenizer, train_tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.usefixtures("cluster_at_hand")]
HOOKPOINT = "blocks.0.hook_resid_post"


@pytest.fixture
def two_layers(tmp_path, text_directory):
    """A GPT-2 of two layers with GELU and tied embeddings, trained for two seconds, as a Hugging Face directory.

    Of a random model, zeros at a hookpoint may improve the predictions, so its shares of recovered loss mean nothing.
    """
    directory = tmp_path / "two-layers"
    directory.mkdir()
    save_tokenizer(train_tokenizer((path.read_text() for path in sorted(text_directory.iterdir())), 300), directory)
    tokenizer = SubjectTokenizer(str(directory))
    torch.manual_seed(0)
    sizes = GPT2Config(
        vocab_size=len(tokenizer.token_texts), n_positions=32, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = train(GPT2LMHeadModel(sizes), tokenizer.encode([path.read_text() for path in sorted(text_directory.iterdir())]))
    model.save_pretrained(directory)
    return directory


def train(model, documents):
    """Teach a model the documents, in 200 steps of 32 windows."""
    text = torch.tensor([token for tokens in documents for token in tokens])
    windows = text[: len(text) // 32 * 32].reshape(-1, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(200):
        batch = windows[torch.arange(32 * step, 32 * step + 32) % len(windows)]
        optimizer.zero_grad()
        model(batch, labels=batch).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labelled.jsonl"
    words = {"code": "import return class def", "numbers": "0 1 2 0 2 1"}
    path.write_text("\n".join(json.dumps({"label": label, "text": f"{own} " * (4 + number)}) for label, own in words.items() for number in range(8)))
    return path


def test_a_two_layer_model_is_evaluated_and_explained_at_its_residual_stream(tiny_run, two_layers, labelled, monosem, tmp_path):
    output = tmp_path / "run"
    dictionary = {"name": "topk", "sae": {"architecture": "topk", "d_sae": 64, "k": 8}, "optimizer": {"learning_rate": 3e-3}}
    config = tiny_run | {
        "output": str(output),
        "subject": {"model": str(two_layers)},
        "harvest": {"hookpoints": [HOOKPOINT], "sequences_per_shard": 64, "num_workers": 1},
        "training": tiny_run["training"] | {"dictionaries": [dictionary], "epochs": 4},
        "interpretation": {"num_workers": 1, "controls": {"num_features": 8}},
        "evaluation": {"num_workers": 1, "concepts": {"text": str(labelled), "probe_sizes": [2]}},
    }
    done = {}
    for verb in ("harvest", "train", "evaluate", "interpret"):
        done[verb] = monosem(verb, config=config)
        assert done[verb].returncode == 0, done[verb].stderr
    assert "mean F1 over labels" in done["evaluate"].stdout, "evaluate shows the detectors of the labelled text"
    report = json.loads((output / "evaluation" / "topk.json").read_text())
    assert (report["hookpoint"], report["d_in"]) == (HOOKPOINT, 16)
    assert 0 < report["fvu"] < 0.9
    assert report["cross_entropy"]["clean"] < report["cross_entropy"]["zero_ablated"]
    assert 0 < report["loss_recovered_zero"] <= 1
    worst = pa.ipc.open_file((output / "evaluation" / "topk.worst.arrow").read_bytes()).read_all()
    assert worst.num_rows == -(-report["num_predictions"] // 100)
    concepts = json.loads((output / "concepts" / "concepts.json").read_text())
    assert [label["label"] for label in concepts["labels"]] == ["code", "numbers"]
    explained = {path.name for path in (output / "interpretation").iterdir() if (path / "summary.json").exists()}
    assert explained == {"topk", "neurons", "random_directions", "pca"}
    signs = {sign for source in concepts["sources"] for detector in source["detectors"] for sign in detector["signs"]}
    assert signs <= {1, -1}
