"""The figures of an evaluation in the JSON layout of SAEBench's core evaluation, so that its tools and tables can read them.

Reference: github.com/adamkarvonen/SAEBench, sae_bench/evals/core (eval_output.py names the fields, main.py defines them; Karvonen et al.
2025, arXiv 2503.09532). Where ours differ: `explained_variance` is one minus FVU over the whole set; `explained_variance_legacy`, which averages
a ratio over tokens, takes the mean of the store and not that of a batch; `mse` is summed over d_in and averaged over tokens. What is not
defined is -1, as there. The file passes the classes of sae-bench 0.6.0, which a test shows.
"""

import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sae.evaluation.sparsity import SparsitySums
from sae.evaluation.weights import FeatureWeights
from sae.storage import sha256_hex, to_json

UNDEFINED = -1.0


@dataclass(frozen=True)
class MeasuredOn:
    """Model and text of an evaluation, under names by which tables can group them.

    Attributes:
        model_name: name of the hub, or last part of a path with a digest.
        llm_dtype: precision the model ran in.
        dataset: name of the text.
    """

    model_name: str
    llm_dtype: str
    dataset: str


def saebench_output(
    report: dict[str, Any], sparsity: SparsitySums, weights: FeatureWeights, tokens_run: int, measured_on: MeasuredOn
) -> dict[str, Any]:
    """One object of SAEBench's core schema.

    Args:
        report: the evaluation report as JSON.
        sparsity: the sums behind it.
        weights: of the dictionary.
        tokens_run: tokens the model was run on, special ones included, as SAEBench counts them.
        measured_on: model and text.
    """
    return {
        "eval_type_id": "core",
        "eval_config": _config(report, measured_on),
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, sha256_hex(to_json(report["inputs"])))),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": _metrics(report, sparsity.density, weights, tokens_run),
        "eval_result_details": _details(sparsity, weights),
        "sae_bench_commit_hash": "not run by SAEBench",
        "sae_lens_id": report["name"],
        "sae_lens_release_id": "monosem",
        "sae_lens_version": None,
        "sae_cfg_dict": {key: report[key] for key in ("architecture", "d_in", "d_sae", "k")} | {"hook_name": report["hookpoint"]},
        "eval_result_unstructured": {"monosem": report},
    }


def _config(report: dict[str, Any], measured_on: MeasuredOn) -> dict[str, Any]:
    return asdict(measured_on) | {
        "batch_size_prompts": report["num_sequences"],
        "n_eval_reconstruction_batches": 1,
        "n_eval_sparsity_variance_batches": 1,
        "context_size": report["context_length"],
        "compute_kl": True,
        "compute_ce_loss": True,
        "compute_l2_norms": True,
        "compute_sparsity_metrics": True,
        "compute_variance_metrics": True,
        "compute_featurewise_density_statistics": True,
        "compute_featurewise_weight_based_metrics": True,
        "exclude_special_tokens_from_reconstruction": True,
        "verbose": False,
    }


def _metrics(report: dict[str, Any], density: np.ndarray, weights: FeatureWeights, tokens_run: int) -> dict[str, dict[str, Any]]:
    entropy, divergence, total = report["cross_entropy"], report["kl_divergence"], density.sum()
    metrics = {
        "model_behavior_preservation": {
            "kl_div_score": divergence["score"],
            "kl_div_with_ablation": divergence["zero_ablated"],
            "kl_div_with_sae": divergence["mean"],
        },
        "model_performance_preservation": {
            "ce_loss_score": report["loss_recovered_zero"],
            "ce_loss_with_ablation": entropy["zero_ablated"],
            "ce_loss_with_sae": entropy["spliced"],
            "ce_loss_without_sae": entropy["clean"],
        },
        "reconstruction_quality": {
            "explained_variance": report["explained_variance"],
            "explained_variance_legacy": report["explained_variance_per_token"],
            "mse": report["mean_squared_error"],
            "cossim": report["cosine"],
        },
        "shrinkage": {
            "l2_norm_in": report["norm"],
            "l2_norm_out": report["reconstruction_norm"],
            "l2_ratio": report["norm_ratio_per_token"],
            "relative_reconstruction_bias": report["reconstruction_bias"],
        },
        "sparsity": {"l0": report["l0"], "l1": report["l1"]},
        "token_stats": {"total_tokens_eval_reconstruction": tokens_run, "total_tokens_eval_sparsity_variance": tokens_run},
        "misc_metrics": {
            "freq_over_1_percent": report["share_above_1_percent"],
            "freq_over_10_percent": report["share_above_10_percent"],
            "normalized_freq_over_1_percent": density[density > 0.01].sum() / total if total else 0.0,
            "normalized_freq_over_10_percent": density[density > 0.1].sum() / total if total else 0.0,
            "average_max_encoder_cosine_sim": _mean(weights.max_encoder_cosine),
            "average_max_decoder_cosine_sim": _mean(weights.max_decoder_cosine),
            "frac_alive": float((density > 0).mean()),
        },
    }
    return {category: {name: _plain(value) for name, value in values.items()} for category, values in metrics.items()}


def _details(sparsity: SparsitySums, weights: FeatureWeights) -> list[dict[str, Any]]:
    columns = {
        "feature_density": sparsity.density,
        "consistent_activation_heuristic": sparsity.fired / np.where(sparsity.fired_sequences, sparsity.fired_sequences, np.nan),
        "encoder_bias": weights.encoder_bias,
        "encoder_norm": weights.encoder_norm,
        "encoder_decoder_cosine_sim": weights.encoder_decoder_cosine,
        "max_decoder_cosine_sim": weights.max_decoder_cosine,
        "max_encoder_cosine_sim": weights.max_encoder_cosine,
    }
    rows = zip(*columns.values(), strict=True)
    return [{"index": index} | {name: round(_plain(value), 6) for name, value in zip(columns, row, strict=True)} for index, row in enumerate(rows)]


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _plain(value: Any) -> Any:
    """A JSON number; what is not defined as SAEBench writes it."""
    if value is None or not np.isfinite(value):
        return UNDEFINED
    return value if isinstance(value, int) else float(value)
