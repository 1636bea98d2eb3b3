"""`pretrain` makes an ordinary Hugging Face directory, learns, and continues after an interruption as if there had been none."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae.corpus.sources import CorpusConfig
from sae.errors import CorruptObjectError, EmptyCorpusError, PlanError
from sae.pretraining import STATE_KEY, PretrainingConfig, TransformerConfig, batch_of, learning_rate_factor, pretrain
from sae.storage import Place


def config(text_directory, **changes):
    return PretrainingConfig(
        corpus=CorpusConfig(text=[str(text_directory)], context_length=32, held_out_fraction=0.2),
        transformer=TransformerConfig(d_model=16, d_mlp=32, num_heads=2, vocab_size=290),
        **{"tokens": 64 * 8 * 32, "sequences_per_batch": 8, "checkpoint_seconds": 1e-6, **changes},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_directory):
    output = tmp_path_factory.mktemp("trained")
    return output, pretrain(config(text_directory), Place(output))


def test_the_result_is_a_directory_that_transformers_loads(trained):
    output, result = trained
    model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert (model.config.n_layer, model.config.n_embd, model.config.n_inner, model.config.activation_function) == (1, 16, 32, "relu")
    assert len(tokenizer) == 290
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.float16}
    assert "monosem pretrain" in (output / "README.md").read_text()
    assert result["corpus_digest"] in (output / "pretraining.json").read_text()


def test_it_learns_more_than_the_frequencies_of_tokens(trained, text_directory):
    _, result = trained
    assert result["validation_loss_nats"] < 0.75 * np.log(290)


def test_an_interrupted_training_ends_with_the_identical_weights(tmp_path, trained, text_directory):
    def stop_at_step_20(stage, done, total):
        if stage.startswith("pretrain") and done >= 20 * 8 * 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(config(text_directory), Place(tmp_path), progress=stop_at_step_20)
    assert not (tmp_path / "pretraining.json").exists()
    pretrain(config(text_directory), Place(tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_another_configuration_in_the_same_place_is_refused(trained, text_directory):
    with pytest.raises(PlanError, match="another seed"):
        pretrain(config(text_directory, seed=5), Place(trained[0]))


@pytest.mark.parametrize("key", ["pretraining.json", "pretraining-config.json"])
def test_a_changed_record_is_refused(trained, text_directory, tmp_path, key):
    output = shutil.copytree(trained[0], tmp_path / "model")
    assert pretrain(config(text_directory), Place(output)) == trained[1]
    text = (output / key).read_text()
    (output / key).write_text(text.replace('"d_model": 16', '"d_model": 17').replace('"d_model":16', '"d_model":17'))
    with pytest.raises(CorruptObjectError, match=key):
        pretrain(config(text_directory), Place(output))


@pytest.mark.parametrize("key", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_file_of_the_finished_model_is_refused(trained, text_directory, tmp_path, key):
    output = shutil.copytree(trained[0], tmp_path / "model")
    with (output / key).open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"1")
    with pytest.raises(CorruptObjectError, match=rf"{key} has the digest .* and .*pretraining\.json names"):
        pretrain(config(text_directory), Place(output))


def test_a_changed_state_is_refused(trained, text_directory, tmp_path):
    output = shutil.copytree(trained[0], tmp_path / "model")
    (output / "pretraining.json").unlink()
    state = bytearray((output / STATE_KEY).read_bytes())
    state[-100] ^= 1
    (output / STATE_KEY).write_bytes(state)
    with pytest.raises(CorruptObjectError, match=r"state\.bin was changed after it was written\. Delete it"):
        pretrain(config(text_directory), Place(output))


def test_a_vocabulary_that_the_text_cannot_fill_says_so(tmp_path, text_directory):
    large = config(text_directory).model_copy(update={"transformer": TransformerConfig(vocab_size=4096)})
    with pytest.raises(EmptyCorpusError, match="expected 4096.*smaller transformer.vocab_size"):
        pretrain(large, Place(tmp_path))


def test_every_epoch_visits_every_sequence_once_in_another_order():
    epochs = np.concatenate([batch_of(step, 5, 20, seed=0) for step in range(8)]).reshape(2, 20)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 100) for step in range(101)]
    assert factors[0] == 0.5
    assert max(factors) == 1.0
    assert factors[100] == 0.0
