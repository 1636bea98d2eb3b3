"""A subject, held-out tokens, and dictionaries whose figures are known beforehand."""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary
from sae.subject.model import Subject, SubjectConfig

NEVER = -1e6  # an encoder bias that keeps a feature silent


@pytest.fixture(scope="session")
def subject(tiny_subject_directory):
    return Subject.load(SubjectConfig(model=str(tiny_subject_directory)))


@pytest.fixture(scope="session")
def tokens(tiny_corpus, tiny_subject_directory):
    """12 sequences that the model itself continues, so that ablation costs it something; in two of them a document ends (EOS, here BOS)."""
    sequences = tiny_corpus.sequences("held_out", 0, tiny_corpus.num_sequences("held_out")).astype(np.int64)
    with_end = (sequences[:, 1:] == tiny_corpus.manifest.bos_token_id).any(1)
    assert (sequences[:, 0] == tiny_corpus.manifest.bos_token_id).all()
    chosen = torch.from_numpy(np.concatenate([sequences[~with_end][:5], sequences[with_end][:2], sequences[~with_end][5:10]]))
    model, draw = GPT2LMHeadModel.from_pretrained(tiny_subject_directory).eval(), torch.Generator().manual_seed(3)
    special = chosen == tiny_corpus.manifest.bos_token_id
    with torch.no_grad():
        for position in range(1, chosen.shape[1]):
            likely = model(chosen[:, :position]).logits[:, -1].index_fill(1, torch.tensor([tiny_corpus.manifest.bos_token_id]), -torch.inf)
            drawn = torch.multinomial(likely.softmax(-1), 1, generator=draw).flatten()
            chosen[:, position] = torch.where(special[:, position], chosen[:, position], drawn)
    return chosen


@pytest.fixture
def identity():
    """Reconstructs every activation exactly: x = relu(x) − relu(−x)."""
    return linear_dictionary(torch.eye(32), NEVER * torch.zeros(64))


@pytest.fixture
def silent():
    """Never fires and reconstructs zero."""
    return linear_dictionary(torch.eye(32), NEVER * torch.ones(64))


@pytest.fixture
def rough():
    """A poor dictionary: random directions."""
    return linear_dictionary(0.3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(5)), torch.full((64,), -0.1))


@pytest.fixture
def silent_narrow():
    """Silent, for the residual stream."""
    return linear_dictionary(torch.eye(16), NEVER * torch.ones(32))


def linear_dictionary(directions, b_enc):
    """A ReLU dictionary of every direction and its negative."""
    d_in = directions.shape[1]
    dictionary = build_dictionary(ReluConfig(d_sae=2 * len(directions)), d_in)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.cat([directions.T, -directions.T], 1))
        dictionary.W_dec.copy_(torch.cat([directions, -directions]))
        dictionary.b_enc.copy_(b_enc)
        dictionary.b_dec.zero_()
    return dictionary.eval()
