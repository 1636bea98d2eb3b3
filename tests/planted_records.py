"""Records of a planted run as the stages write them: of declared types, sealed, and naming each other by their digests."""

import hashlib

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from sae.architectures.config import SAEConfig
from sae.corpus.manifest import CorpusManifest, TokenShard, write_corpus_manifest
from sae.corpus.sources import CorpusConfig
from sae.dictionary_record import DictionaryRecord, describe_dictionary, put_dictionary_record
from sae.evaluation.report import EvaluationReport
from sae.evaluation.tables import TABLES, table_key
from sae.interpretation.records import Budget
from sae.interpretation.sources.directory import SourcePlan
from sae.interpretation.sources.sources import SourceSpec
from sae.interpretation.summary import summarise
from sae.interpretation.summary_record import put_summary
from sae.records import digests_of, put_record
from sae.run.records import RunStages
from sae.storage import Place, sha256_hex, to_json
from sae.store.manifest import StorePlan
from sae.store.schema import row_bytes
from sae.tables import ipc_bytes
from sae.training.records import TrainingResult

HOOKPOINT = "blocks.0.mlp.hook_post"
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">"
SUBJECT_DIGEST, CORPUS_DIGEST = "a" * 64, hashlib.sha256(b"trainheld_out").hexdigest()
HELD_OUT_MEDIANS = {
    **{"firing_precision": 0.76, "firing_recall": 0.33, "firing_f1": 0.46, "variance_explained": 0.41},
    **{"score_all_tokens": 0.67, "spearman_all_tokens": 0.21, "score_hard": None},
}
DENSITY_CLUSTERS = {
    "ultra_low": {"num_features": 128, "median_density": 2e-7, "median_encoder_bias": -1.25, "median_encoder_decoder_cosine": 0.12},
    "others": {"num_features": 3968, "median_density": 0.0021, "median_encoder_bias": -0.5, "median_encoder_decoder_cosine": 0.82},
}
COST = {"seconds": 150.4, "peak_rss_bytes": 3 * 2**30, "finished": True}


def write_manifests(run: Place) -> None:
    """A corpus and a store of which only the records are there."""
    write_corpus_manifest(run.child("corpus"), corpus_manifest())
    write_store(run)


def corpus_manifest(**changes: object) -> CorpusManifest:
    shards = {split: [TokenShard(key=f"{split}/000000.arrow", sequences=500, sha256=split)] for split in ("train", "held_out")}
    documents = {"read": 12000, "duplicates": 800, "train": 10600, "held_out": 600}
    return CorpusManifest(
        config=CorpusConfig(**changes), text_digest="b" * 64, tokenizer_digest="f" * 64, bos_token_id=0, documents=documents,
        digest=CORPUS_DIGEST, **shards,
    )  # fmt: skip


def store_manifest() -> dict:
    """The manifest of a store of one shard, as JSON."""
    rows = 3_012_608
    plan = StorePlan(
        subject="deploy/subject", subject_digest=SUBJECT_DIGEST, corpus_digest=CORPUS_DIGEST, context_length=256, hookpoints={HOOKPOINT: 512},
        num_sequences=24_000, sequences_per_shard=24_000, special_token_ids=[0],
    )  # fmt: skip
    statistics = {"rows": rows, "mean": [0.0] * 512, "mean_squared_norm": 1.0, "mean_norm": 1.0, "variance": 1.0}
    statistics |= {"position_rows": [rows] + [0] * 255, "position_mean_norm": [1.0] + [0.0] * 255}
    entry = {"rows": rows, "bytes": rows * row_bytes(512, "float16"), "sha256": "1" * 64, "checksum": "2" * 32, "tokens_sha256": "3" * 64}
    content = {"plan": plan.model_dump(mode="json"), "shards": {HOOKPOINT: [entry]}, "statistics": {HOOKPOINT: statistics}}
    named = content | {"plan": {name: value for name, value in content["plan"].items() if name != "subject"}}
    return content | {"digest": hashlib.sha256(to_json(named)).hexdigest()}


def write_store(run: Place) -> None:
    """Plan and manifest of the store."""
    manifest = store_manifest()
    run.put_sealed("store/plan.json", manifest["plan"])
    run.put_json("store/manifest.json", manifest)


STORE_DIGEST = store_manifest()["digest"]


def write_stages(run: Place) -> None:
    put_record(
        run,
        "stages.json",
        RunStages.parse({"stages": dict.fromkeys(("harvest", "train", "evaluate"), COST), "versions": {"torch": "2.13.0"}, "seeds": {"training": 7}}),
    )


def write_result(place: Place, name: str, architecture: str, final: dict) -> None:
    """`config.json` and `result.json` of a dictionary whose logs are there; its weights are not looked into."""
    place.put("weights.safetensors", b"planted")
    config = TypeAdapter(SAEConfig).validate_python({"architecture": architecture, "d_sae": 4096})
    origin = {"name": name, "hookpoint": HOOKPOINT, "subject": "deploy/subject", "subject_digest": SUBJECT_DIGEST, "store_digest": STORE_DIGEST}
    origin |= {"context_length": 256, "dtype": "float16", "vectors": 3_012_608, "dead_fraction": 0.0119}
    content = {"architecture": config.architecture, "d_in": 512, "config": config.model_dump(mode="json"), "metadata": origin}
    record = put_dictionary_record(place, content | {"weights": {"sha256": "e" * 64, "bytes": 7}})
    write_training_result(place, record, final)


def write_training_result(place: Place, record: DictionaryRecord, final: dict, **changes: object) -> None:
    """`result.json` of a dictionary whose logs are there."""
    known = record.metadata.model_dump(exclude={"imported"})
    result = known | {
        **{"architecture": record.architecture, "d_in": record.d_in, "d_sae": record.config.d_sae, "steps": 1471, "seed": 0, "final": final},
        **{"wall_seconds": 187.3, "read_seconds": 3.2, "dead_window_vectors": 1_000_000, "versions": {"torch": "2.13.0"}},
        **{"dictionary_digest": record.digest, "logs": digests_of(place, ("training.jsonl", "events.jsonl"))},
    }
    put_record(place, "result.json", TrainingResult.parse(result | changes))


def digest_of(run: Place, name: str) -> str:
    """Digest of a dictionary of the run; any where there is none."""
    place = run.child("dictionaries", name)
    return describe_dictionary(place).digest if place.exists("config.json") else "e" * 64


def write_evaluation(run: Place, name: str, number: int, tables: bool = True, **changes: object) -> None:
    """An evaluation report with its tables; the second dictionary is the better one. The text before the worst prediction is hostile."""
    place, digests = run.child("evaluation"), {}
    for table, columns in breakdown(number).items():
        key = table_key(name, table)
        data = ipc_bytes(pa.table(columns, schema=TABLES[table]) if tables else TABLES[table].empty_table())
        place.put(key, data)
        digests[key] = sha256_hex(data)
    report = evaluation(name, number, digest_of(run, name)) | changes
    put_record(place, f"{name}.json", EvaluationReport.parse(report | {"tables": digests}))


def evaluation(name: str, number: int, dictionary_digest: str = "e" * 64) -> dict:
    spliced = 3.22 if number else 3.41
    entropies = {"clean": 3.18, "spliced": spliced, "mean_ablated": 4.02, "zero_ablated": 4.61}
    recovered = {of: (ablated - spliced) / (ablated - 3.18) for of, ablated in (("zero", 4.61), ("mean", 4.02))}
    edges = [round(-8 + 0.2 * step, 1) for step in range(41)]
    counts = [round(420 * np.exp(-(((edge + 2.7) / 0.7) ** 2))) if edge >= -5 else 0 for edge in edges[:-1]]
    counts[25] += 4096 - 49 - sum(counts)
    inputs = {"subject_digest": SUBJECT_DIGEST, "corpus_digest": CORPUS_DIGEST, "store_digest": STORE_DIGEST, "num_sequences": 512, "seed": 0}
    return {
        "name": name,
        "architecture": "topk" if name == "topk" else "relu",
        "k": 20 if name == "topk" else None,
        "d_in": 512,
        "d_sae": 4096,
        "hookpoint": "blocks.0.mlp.hook_post",
        "num_sequences": 512,
        "num_tokens": 130_048,
        "num_predictions": 129_536,
        "cross_entropy": entropies,
        "perplexity": {key: float(np.exp(value)) for key, value in entropies.items()},
        "kl_divergence": {"mean": 0.061, "quantiles": {"p50": 0.01, "p90": 0.1, "p99": 0.9}},
        "worst_percent": {"num_predictions": 1296, "kl_threshold": 1.25, "kl_mean": 2.5, "share_of_kl": 0.41, "loss_increase": 1.1},
        "top1_agreement": 0.913,
        **{f"loss_recovered_{of}": value for of, value in recovered.items()},
        **{f"loss_recovered_{of}_interval": [value - 0.004, value + 0.003] for of, value in recovered.items()},
        "fvu": 0.048 if number else 0.152,
        "cosine": 0.971,
        "norm_ratio": 0.93,
        "mean_squared_error": 0.7,
        "explained_variance": 0.952 if number else 0.848,
        "l0": 20.0 if number else 14.3,
        "l1": 31.5,
        "density_resolution": 1 / 130_048,
        "silent_fraction": 0.0131,
        "ultra_low_density_fraction": None,
        "share_above_1_percent": 0.08,
        "share_above_10_percent": 0.002,
        "density_clusters": None if number else DENSITY_CLUSTERS,
        "density_histogram": {"log10_edges": edges, "counts": counts, "never": 49},
        "inputs": inputs | {"dictionary_digest": dictionary_digest},
    }


def breakdown(number: int) -> dict[str, dict]:
    """Columns of the tables of an evaluation."""
    positions = np.arange(255)
    clean = 3.0 + 2.5 / (1 + positions)
    columns = {"clean": clean, "spliced": clean + 0.3 - 0.2 * number, "zero_ablated": clean + 1.4, "mean_ablated": clean + 0.8}
    columns |= {"kl_divergence": np.full(255, 0.06), "top1_agreement": np.full(255, 0.9), "loss_recovered_zero": np.full(255, 0.9)}
    edges = np.array([0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, np.inf])
    means = {key: values[:12].tolist() for key, values in columns.items()} | {"kl_divergence": [0.01 * (1 + cell) for cell in range(11)] + [None]}
    worst = {"sequence": np.arange(20, dtype=np.uint64), "position": np.arange(20, dtype=np.uint32), "context": [f"import {HOSTILE}\n"] * 20}
    worst |= {"next_token": [" numpy"] * 20, "token_id": np.full(20, 3, np.uint32), "next_token_id": np.full(20, 4, np.uint32)}
    numbers = {key: [0.1] for key in ("density", "encoder_bias", "encoder_norm", "encoder_decoder_cosine")}
    return {
        "density": {"feature": [0], "tokens_fired": [3], "sequences_fired": [2], "ultra_low": [False]} | numbers,
        "positions": {"position": positions.astype(np.uint32), "predictions": np.full(255, 512, np.uint64)} | columns,
        "losses": {"low": edges[:-1], "high": edges[1:], "predictions": np.array([9000] * 11 + [0], np.uint64)} | means,
        "worst": worst | {"clean": np.full(20, 0.1), "spliced": np.full(20, 7.5), "kl_divergence": np.linspace(9, 6, 20)},
    }


def write_summary(run: Place, source: str, features: pa.Table, **changes: object) -> None:
    """Plan and summary of an interpreted source whose tables are there."""
    place = run.child("interpretation", source)
    controls = {"neurons": "neurons", "random_directions": "random_directions", "shuffled_topk": "shuffled_model"}
    kind = controls.get(source, "dictionary")
    spec = SourceSpec(name=source, kind=kind, num_features=3 * len(features))
    digest = digest_of(run, source) if kind == "dictionary" else ""
    digests = {"source_digest": digest, "subject_digest": SUBJECT_DIGEST, "corpus_digest": CORPUS_DIGEST, "store_digest": STORE_DIGEST}
    put_record(place, "plan.json", SourcePlan(name=source, kind=kind, hookpoint=HOOKPOINT, budget=Budget(), **digests))
    summary = summarise(features, spec, HOOKPOINT, Budget())
    median = summary["explanation_score_median"]
    summary |= {"explanation_score_interval": [median - 0.02, median + 0.02], "held_out_medians": HELD_OUT_MEDIANS}
    summary |= {"explanation_tokens": 522_240, "scoring_tokens": 130_560, "repeated_fraction": 0.01}
    put_summary(place, summary | {"tables": digests_of(place, ("plan.json", "features.parquet", "examples.parquet"))} | changes)


def alter_summary(run: Place, source: str, **changes: object) -> None:
    """The summary with other fields, and with the digests of the tables that are there now."""
    place = run.child("interpretation", source)
    there = [key for key in place.list() if key.endswith(".parquet") or key == "plan.json"]
    put_summary(place, place.get_sealed("summary.json") | {"tables": digests_of(place, there)} | changes)
