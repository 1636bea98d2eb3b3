"""Columns of the tables that an evaluation leaves with its report (`sae.evaluation.report` says what they hold)."""

import pyarrow as pa

_MEANS = [
    ("predictions", pa.uint64()),
    *((name, pa.float64()) for name in ("clean", "spliced", "zero_ablated", "mean_ablated", "kl_divergence")),
    ("top1_agreement", pa.float64()),
    ("loss_recovered_zero", pa.float64()),
]
TABLES = {
    "density": pa.schema(
        [
            ("feature", pa.uint32()),
            ("tokens_fired", pa.uint64()),
            ("density", pa.float64()),
            ("sequences_fired", pa.uint64()),
            ("encoder_bias", pa.float64()),
            ("encoder_norm", pa.float64()),
            ("encoder_decoder_cosine", pa.float64()),
            ("ultra_low", pa.bool_()),
        ]
    ),
    "positions": pa.schema([("position", pa.uint32()), *_MEANS]),
    "losses": pa.schema([("low", pa.float64()), ("high", pa.float64()), *_MEANS]),
    "worst": pa.schema(
        [
            ("sequence", pa.uint64()),
            ("position", pa.uint32()),
            ("context", pa.string()),
            ("next_token", pa.string()),
            ("token_id", pa.uint32()),
            ("next_token_id", pa.uint32()),
            *((name, pa.float64()) for name in ("clean", "spliced", "kl_divergence")),
        ]
    ),
}


def table_key(name: str, table: str) -> str:
    """The file of a table of the dictionary `name`."""
    return f"{name}.{table}.arrow"
