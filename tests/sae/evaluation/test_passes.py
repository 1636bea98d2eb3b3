"""All passes of an evaluation, against the plain Hugging Face model run by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import GPT2LMHeadModel

from sae.architectures.config import ReluConfig
from sae.architectures.registry import build_dictionary
from sae.errors import InputError
from sae.evaluation.passes import evaluate_sequences

MLP = "blocks.0.mlp.hook_post"
MEAN = torch.linspace(0, 1, 32)


@pytest.fixture(scope="module")
def plain(tiny_subject_directory):
    return GPT2LMHeadModel.from_pretrained(tiny_subject_directory).eval()


def run_plain(plain, tokens, replace):
    """Logits and the MLP activation, with `replace(activation)` in the activation's place."""
    seen = []

    def splice(module, inputs):
        seen.append(inputs[0])
        return (replace(inputs[0]),)

    handle = plain.transformer.h[0].mlp.c_proj.register_forward_pre_hook(splice)
    with torch.no_grad():
        logits = plain(tokens).logits
    handle.remove()
    return logits, seen[0]


def at_every_token(dictionary):
    return lambda activation: dictionary(activation.flatten(0, 1)).view_as(activation)


def mean_loss(logits, tokens, predicting):
    losses = functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)
    return losses[predicting].double().mean().item()


def evaluated(subject, tokens, **dictionaries):
    return evaluate_sequences(subject, MLP, dictionaries, MEAN, tokens, 0)


def test_the_identity_recovers_everything_and_silence_nothing(subject, tokens, identity, silent):
    sums = evaluated(subject, tokens, identity=identity, silent=silent)
    perfect, nothing = (sums[name].downstream.figures(seed=0) for name in ("identity", "silent"))
    assert perfect.loss_recovered_zero == pytest.approx(1, abs=1e-5)
    assert perfect.loss_recovered_mean == pytest.approx(1, abs=1e-5)
    assert perfect.kl_divergence.mean == pytest.approx(0, abs=1e-6)
    assert perfect.top1_agreement == 1
    assert sums["identity"].reconstruction.figures().fvu == pytest.approx(0, abs=1e-8)
    assert nothing.loss_recovered_zero == 0
    assert nothing.cross_entropy.spliced == nothing.cross_entropy.zero_ablated != nothing.cross_entropy.clean
    assert sums["silent"].sparsity.figures().silent_fraction == 1


def test_every_figure_restated_without_the_special_tokens(subject, plain, tokens, rough):
    sums = evaluated(subject, tokens, rough=rough)["rough"]
    figures = sums.downstream.figures(seed=0)
    counted = tokens != subject.tokenizer.bos_token_id
    predicting = counted[:, :-1]

    def only_counted(change):
        return lambda activation: torch.where(counted[..., None], change(activation), activation)

    with torch.no_grad():
        clean, activations = run_plain(plain, tokens, lambda activation: activation)
        spliced, _ = run_plain(plain, tokens, only_counted(at_every_token(rough)))
        zero, _ = run_plain(plain, tokens, only_counted(torch.zeros_like))
        mean, _ = run_plain(plain, tokens, only_counted(lambda activation: MEAN.expand_as(activation)))
        features = rough.encode(activations[counted])
    for name, logits in {"clean": clean, "spliced": spliced, "zero_ablated": zero, "mean_ablated": mean}.items():
        assert getattr(figures.cross_entropy, name) == pytest.approx(mean_loss(logits, tokens, predicting), rel=1e-5)
    log_p, log_q = clean[:, :-1].log_softmax(-1)[predicting], spliced[:, :-1].log_softmax(-1)[predicting]
    assert figures.kl_divergence.mean == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), rel=1e-4)
    assert figures.top1_agreement == pytest.approx((log_p.argmax(-1) == log_q.argmax(-1)).float().mean().item(), abs=1e-3)
    assert (figures.num_sequences, figures.num_predictions) == (12, int(predicting.sum()))
    assert sums.sparsity.figures().num_tokens == int(counted.sum())
    assert sums.sparsity.figures().l0 == pytest.approx((features > 0).sum(-1).float().mean().item(), rel=1e-5)
    assert sums.sparsity.figures().l1 == pytest.approx(features.sum(-1).mean().item(), rel=1e-4)
    x, y = activations[counted], rough(activations[counted])
    expected = (x - y).square().sum() / (x - x.mean(0)).square().sum()
    assert sums.reconstruction.figures().fvu == pytest.approx(expected.item(), rel=1e-4)


def test_figures_with_bos_would_be_others(subject, plain, tokens, rough):
    """The restatement above is sharp: predictions from BOS, or a reconstruction in its place, move what it checks."""
    figures = evaluated(subject, tokens, rough=rough)["rough"].downstream.figures(seed=0)
    everywhere = torch.ones_like(tokens[:, :-1], dtype=torch.bool)
    with torch.no_grad():
        clean, _ = run_plain(plain, tokens, lambda activation: activation)
        spliced_everywhere, _ = run_plain(plain, tokens, at_every_token(rough))
    assert mean_loss(clean, tokens, everywhere) != pytest.approx(figures.cross_entropy.clean, abs=1e-3)
    assert mean_loss(spliced_everywhere, tokens, everywhere) != pytest.approx(figures.cross_entropy.spliced, abs=1e-3)


def test_special_tokens_keep_their_activation(subject, plain, tokens, silent_narrow):
    """Seen before the attention, where what stands at BOS reaches the predictions of all later tokens."""
    counted = tokens != subject.tokenizer.bos_token_id
    handle = plain.transformer.h[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * ~counted[..., None], *inputs[1:]))
    with torch.no_grad():
        expected = mean_loss(plain(tokens).logits, tokens, counted[:, :-1])
    handle.remove()
    sums = evaluate_sequences(subject, "blocks.0.hook_resid_pre", {"silent": silent_narrow}, torch.zeros(16), tokens, 0)["silent"]
    entropies = sums.downstream.figures(seed=0).cross_entropy
    assert entropies.spliced == pytest.approx(expected, rel=1e-5)
    assert entropies.zero_ablated == entropies.mean_ablated == entropies.spliced


def test_a_transcoder_is_spliced_in_at_its_target(subject, plain, tokens, identity):
    """One that computes exactly what lies between the two hookpoints changes nothing; measured beside an autoencoder of its source."""
    output = "blocks.0.hook_mlp_out"
    transcoder = build_dictionary(ReluConfig(d_sae=64), 32, 16)
    projection = plain.transformer.h[0].mlp.c_proj
    with torch.no_grad():
        transcoder.W_enc.copy_(torch.cat([torch.eye(32), -torch.eye(32)], 1))
        transcoder.W_dec.copy_(torch.cat([projection.weight, -projection.weight]))
        transcoder.b_enc.zero_()
        transcoder.b_dec.copy_(projection.bias)
    average = torch.linspace(-1, 1, 16)
    both = {"exact": transcoder, "identity": identity}
    sums = evaluate_sequences(subject, MLP, both, MEAN, tokens, 0, {"exact": (output, average)})
    figures = sums["exact"].downstream.figures(seed=0)
    assert sums["exact"].reconstruction.figures().fvu == pytest.approx(0, abs=1e-6)
    assert figures.loss_recovered_zero == pytest.approx(1, abs=1e-4)
    assert figures.cross_entropy.spliced == pytest.approx(figures.cross_entropy.clean, rel=1e-5)

    counted = tokens != subject.tokenizer.bos_token_id
    for vector, found in ((torch.zeros(16), figures.cross_entropy.zero_ablated), (average, figures.cross_entropy.mean_ablated)):
        ablated = lambda module, inputs, activation, vector=vector: torch.where(counted[..., None], vector, activation)  # noqa: E731
        handle = plain.transformer.h[0].mlp.register_forward_hook(ablated)
        with torch.no_grad():
            assert found == pytest.approx(mean_loss(plain(tokens).logits, tokens, counted[:, :-1]), rel=1e-5)
        handle.remove()
    assert sums["identity"].downstream.losses.mean_ablated.sum() != sums["exact"].downstream.losses.mean_ablated.sum()


@pytest.mark.parametrize("cuts", [[6, 12], [1, 8, 12]])
def test_batches_add_up_to_the_whole(subject, tokens, rough, cuts):
    whole = evaluated(subject, tokens, rough=rough)["rough"]
    parts = [
        evaluate_sequences(subject, MLP, {"rough": rough}, MEAN, tokens[first:last], first)["rough"]
        for first, last in zip([0, *cuts], cuts, strict=False)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    assert np.array_equal(total.sparsity.fired, whole.sparsity.fired)
    assert np.array_equal(total.downstream.losses.sequence_ids, np.arange(12))
    assert total.downstream.figures(0).loss_recovered_zero == pytest.approx(whole.downstream.figures(0).loss_recovered_zero, rel=1e-6)
    assert total.reconstruction.figures().fvu == pytest.approx(whole.reconstruction.figures().fvu, rel=1e-6)


def test_dictionaries_do_not_disturb_one_another(subject, tokens, rough, identity):
    alone = evaluated(subject, tokens, rough=rough)["rough"].downstream.figures(0)
    together = evaluated(subject, tokens, identity=identity, rough=rough)["rough"].downstream.figures(0)
    assert alone == together


def test_text_of_special_tokens_only_is_refused(subject, rough):
    nothing = torch.full((2, 8), subject.tokenizer.bos_token_id)
    with pytest.raises(InputError, match="special tokens only"):
        evaluate_sequences(subject, MLP, {"rough": rough}, MEAN, nothing, 0)
