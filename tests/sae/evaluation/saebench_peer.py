"""Run by the peers' interpreter: SAEBench's own classes read the file that an evaluation leaves for it."""

from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter
from sae_bench.evals.core.eval_output import CoreEvalOutput

from tests.benchmarks.peers import serve


def answer(path: str) -> dict:
    """The file as SAEBench understands it."""
    return asdict(TypeAdapter(CoreEvalOutput).validate_json(Path(path).read_bytes()))


if __name__ == "__main__":
    serve(answer)
