"""Every command that reads something, the state of a run that it is given, and the files that it reads there."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attacks.commands_here import Ended, command
from tests.attacks.whole_run import answered
from tests.servers.language_server import scripted_endpoint

HOOKS = ("blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out")
DICTIONARY = tuple(f"run/dictionaries/topk/{name}" for name in ("config.json", "weights.safetensors"))
TRAINED = (*DICTIONARY, "run/dictionaries/relu/config.json", "run/dictionaries/jump/weights.safetensors", "run/dictionaries/across/config.json")
FINISHED = tuple(f"run/dictionaries/topk/{name}" for name in ("result.json", "plan.json", "training.jsonl", "events.jsonl"))
CORPUS = ("run/corpus/manifest.json", "run/corpus/text.json", "run/corpus/train/000000.arrow", "run/corpus/held_out/000000.arrow")
RECORDS = ("run/store/manifest.json", "run/store/plan.json")
SHARDS = (f"run/store/shards/{HOOKS[0]}/000001.arrow", "run/store/tokens/000001.arrow")
RECEIPTS = (f"run/store/receipts/{HOOKS[0]}/000001.json", f"run/store/receipts/{HOOKS[1]}/000000.json")
EVALUATION = ("run/evaluation/topk.json", *(f"run/evaluation/topk.{name}.arrow" for name in ("losses", "positions", "density", "worst")))
INTERPRETED = (
    *(f"run/interpretation/topk/{name}" for name in ("summary.json", "plan.json", "features.parquet", "examples.parquet")),
    "run/interpretation/comparison.json",
)
WORDS = tuple(f"run/interpretation/topk/{name}" for name in ("llm_explanations.parquet", "llm_replies.parquet", "llm_plan.json"))
CONCEPTS = ("run/concepts/concepts.json", "run/concepts/detectors.arrow")
RATINGS = ("run/ratings/deck.json", "run/ratings/anna/000001.json")
RUN = ("run/stages.json", "run/config.json", "run/summary.json")
MODEL = tuple(f"subject/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"))


@dataclass(frozen=True)
class Reader:
    """A command as it is attacked.

    Attributes:
        name: of the command, as the table shows it.
        state: of the run that it is given (see `whole_run`).
        run: runs it.
        reads: files that it reads; `*` in one stands for any.
        inputs: those of them that are a user's own input: nothing else says what they should be, so that other results are right.
    """

    name: str
    state: str
    run: Callable[[], Ended]
    reads: tuple[str, ...]
    inputs: tuple[str, ...] = ()


def stage(verb: str, *overrides: str) -> Callable[[], Ended]:
    """A stage of the run."""
    return lambda: command(verb, "-c", "run.yaml", *overrides)


def interpreted() -> Ended:
    """`interpret` with a language model that answers."""
    with scripted_endpoint(answered) as endpoint:
        return command("interpret", "-c", "run.yaml", f"interpretation.language_model.base_url={endpoint.url}")


def plain(*arguments: str) -> Callable[[], Ended]:
    """A command without a configuration."""
    return lambda: command(*arguments)


TEXT = ("text/00.txt", "text/lines.jsonl", "text/packed.jsonl.gz", "text/table.parquet")
CONFIGURATION = ("run.yaml",)
STATES = ("run/dictionaries/state/topk/*", "run/dictionaries/topk/plan.json")
NO_WORDS = "interpretation.language_model=null"
FOREIGN = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "sparsify": ("cfg.json", "sae.safetensors"),
}
READERS = (
    Reader("harvest", "text", stage("harvest"), TEXT + CONFIGURATION, TEXT + CONFIGURATION),
    Reader("harvest", "text", stage("harvest", "subject.model=subject"), MODEL, MODEL),
    Reader("harvest", "harvested", stage("harvest"), CORPUS + RECORDS + RECEIPTS + SHARDS + TEXT + ("run/config.json", "run/stages.json")),
    Reader("train", "harvested", stage("train"), RECORDS + SHARDS + CONFIGURATION + ("run/config.json", "run/stages.json"), CONFIGURATION),
    Reader("train", "stopped", stage("train"), STATES + RECORDS + SHARDS),
    Reader("train", "trained", stage("train"), FINISHED + DICTIONARY + RECORDS),
    Reader("evaluate", "trained", stage("evaluate", "evaluation.concepts.text=null"), TRAINED + RECORDS + SHARDS[:1] + CORPUS),
    Reader("evaluate", "evaluated", stage("evaluate", "evaluation.concepts.text=null"), EVALUATION + DICTIONARY + FINISHED[:1]),
    Reader("concepts", "trained", stage("concepts"), ("labelled.jsonl", *DICTIONARY), ("labelled.jsonl",)),
    Reader("concepts", "evaluated", stage("concepts"), CONCEPTS),
    Reader("interpret", "evaluated", stage("interpret", NO_WORDS), TRAINED + RECORDS + SHARDS[:1] + CORPUS),
    Reader(
        "interpret",
        "half_interpreted",
        stage("interpret", NO_WORDS),
        ("run/interpretation/jump/**/*", "run/interpretation/pca/**/*", *INTERPRETED[:4]),
    ),
    Reader("interpret", "interpreted", interpreted, INTERPRETED + WORDS),
    Reader("interpret --dry-run", "interpreted", stage("interpret", "--dry-run"), INTERPRETED[:4] + WORDS),
    Reader("report", "whole", stage("report"), RUN + FINISHED + DICTIONARY + EVALUATION + INTERPRETED + WORDS + CONCEPTS + RATINGS + CORPUS[:1]),
    Reader("show", "whole", plain("show", "run"), RUN + FINISHED[:1] + EVALUATION[:1] + INTERPRETED[:1] + CONCEPTS[:1] + RATINGS),
    Reader("show", "whole", plain("show", "run/dictionaries/topk"), DICTIONARY + FINISHED[:1]),
    Reader("show", "whole", plain("show", "run/store"), RECORDS + RECEIPTS),
    Reader("show", "whole", plain("show", "run/corpus"), CORPUS[:2]),
    Reader("show --verify", "whole", plain("show", "--verify", "run/store"), RECORDS + RECEIPTS + SHARDS),
    Reader("show --verify", "whole", plain("show", "--verify", "run/corpus"), CORPUS),
    Reader("clean", "whole", plain("clean", "run"), RECORDS + RECEIPTS + SHARDS + RUN[:2]),
    Reader("clean --delete", "whole", plain("clean", "--delete", "run"), RECORDS + RECEIPTS + SHARDS + RUN[:2]),
    Reader("plan", "text", stage("plan", "--rates", "rates.jsonl"), ("rates.jsonl", *TEXT, *CONFIGURATION), ("rates.jsonl", *TEXT, *CONFIGURATION)),
    Reader("serve", "whole", plain("serve", "run"), ("run/report.html", "run/summary.json", INTERPRETED[0], INTERPRETED[2])),
    Reader("rate", "whole", plain("rate", "run"), RATINGS + INTERPRETED),
    *(
        Reader("export", "whole", plain("export", f"run/dictionaries/{name}", "out", "--format", layout), DICTIONARY if name == "topk" else ())
        for name, layout in (("topk", "sparsify"), ("topk", "saelens"))
    ),
    *(
        Reader("import", "whole", plain("import", f"foreign/{layout}", "out"), found := tuple(f"foreign/{layout}/{name}" for name in names), found)
        for layout, names in FOREIGN.items()
    ),
)
