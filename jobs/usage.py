"""The help of each command: the keys that one changes most often, with their defaults, and examples.

The keys are written here, and not read from the configuration, so that help needs no import of torch. A test compares them with it.
"""

import textwrap
from collections.abc import Iterable

from jobs.commands import VERBS

DESCRIPTION = "Dictionary learning on transformer activations: text → activations → dictionary → scores → a report to look at."

KEYS = {
    "output": ("required", "text: directory of the run, a path or URL"),
    "store": ("null", "text: activation store to use; null: OUTPUT/store"),
    "subject.model": ("'embedded'", "text: Hugging Face directory or hub name of the model"),
    "corpus.text": ("[dependencies]", "list: files, globs or hf:NAME"),
    "corpus.text_field": ("'text'", "text: field of the text in JSONL and Parquet"),
    "corpus.context_length": ("256", "int: tokens in a sequence"),
    "corpus.train_tokens": ("null", "int: tokens to train on; null: all"),
    "harvest.hookpoints": ("[blocks.0.mlp.hook_post]", "list: activations to store, TransformerLens names"),
    "harvest.dtype": ("'float16'", "float16|float32|bfloat16: precision of the stored activations"),
    "harvest.tokens_per_sequence": ("null", "int: tokens drawn from each sequence; null: all"),
    "harvest.num_workers": ("2", "int: harvest workers"),
    "harvest.pool.num_gpus": ("0.0", "number: GPUs of a harvest worker"),
    "training.dictionaries.NAME.sae.architecture": ("required", "choice: topk, relu, jumprelu, …"),
    "training.dictionaries.NAME.sae.d_sae": ("4096", "int: features of dictionary NAME"),
    "training.dictionaries.NAME.sae.k": ("20", "int: active features per vector (topk)"),
    "training.dictionaries.NAME.optimizer.learning_rate": ("0.001", "number: Adam's learning rate"),
    "training.batch_size": ("2048", "int: vectors a step"),
    "training.epochs": ("1", "int: passes over the store"),
    "trainer.num_workers": ("1", "int: training workers"),
    "trainer.num_gpus": ("0.0", "number: GPUs of a training worker"),
    "evaluation.num_sequences": ("null", "int: held-out sequences; null: all"),
    "evaluation.sequences_per_forward": ("8", "int: sequences in one pass; lower it if memory is short"),
    "evaluation.num_workers": ("2", "int: evaluation workers"),
    "evaluation.text": ("null", "list: further text to measure on"),
    "evaluation.concepts.text": ("null", "list: JSONL file of labelled documents"),
    "evaluation.concepts.label_field": ("'label'", "text: field of the label"),
    "interpretation.max_features": ("null", "int: features per source; null: all"),
    "interpretation.explanation_sequences": ("2048", "int: sequences that explanations are learned from"),
    "interpretation.scoring_sequences": ("512", "int: sequences that explanations are scored on"),
    "interpretation.num_workers": ("2", "int: interpretation workers"),
    "interpretation.language_model.model": ("required", "text: model for explanations in words"),
    "interpretation.language_model.base_url": ("null", "text: its endpoint, such as http://127.0.0.1:8000/v1"),
    "pretraining.tokens": ("60000000", "int: training tokens"),
    "pretraining.corpus.text": ("[dependencies]", "list: files, globs or hf:NAME"),
    "pretraining.transformer.d_model": ("128", "int: width of the residual stream"),
    "pretraining.transformer.d_mlp": ("512", "int: neurons of the MLP"),
    "pretraining.transformer.vocab_size": ("4096", "int: tokens of the tokenizer"),
    "cluster.address": ("null", "text: running Ray cluster; null: RAY_ADDRESS or a local one"),
    "plan.gpu_hour": ("0.0", "number: price of a GPU for an hour"),
    "plan.cpu_hour": ("0.0", "number: price of a CPU for an hour"),
}
_TEXT = ("corpus.text", "corpus.text_field", "corpus.context_length", "corpus.train_tokens")
_SHAPE = ("training.dictionaries.NAME.sae.d_sae", "training.dictionaries.NAME.sae.k")
_RUN = ("output", "subject.model", "corpus.text", "corpus.train_tokens", "harvest.hookpoints", *_SHAPE, "training.batch_size", "trainer.num_gpus")
USED = {
    "run": (*_RUN, "cluster.address"),
    "pretrain": (*(key for key in KEYS if key.startswith("pretraining.")), "output", "cluster.address"),
    "harvest": ("output", "store", "subject.model", *_TEXT, *(key for key in KEYS if key.startswith("harvest."))),
    "train": ("output", "store", *(key for key in KEYS if key.startswith(("training.", "trainer.")))),
    "evaluate": ("output", "store", "subject.model", *(key for key in KEYS if key.startswith("evaluation.") and "concepts" not in key)),
    "concepts": ("output", "subject.model", "evaluation.concepts.text", "evaluation.concepts.label_field", "evaluation.num_workers"),
    "interpret": ("output", "store", "subject.model", *(key for key in KEYS if key.startswith("interpretation."))),
    "report": ("output",),
    "config": _RUN,
    "plan": (*_RUN, "plan.gpu_hour", "plan.cpu_hour"),
    "submit": (*_RUN, "cluster.address"),
}
"""The keys that the help of each command shows."""
SECTIONS = {
    "run": "all but plan",
    "pretrain": "output, pretraining, cluster",
    "harvest": "output, store, subject, corpus, harvest, cluster",
    "train": "output, store, subject, corpus, harvest, training, trainer, cluster",
    "evaluate": "output, store, subject, corpus, training, evaluation, cluster",
    "concepts": "output, subject, corpus, training, evaluation, cluster",
    "interpret": "output, store, subject, corpus, training, interpretation, cluster",
    "report": "output",
    "config": "all",
    "plan": "all",
    "submit": "those of the command that is submitted",
}
"""The sections of the configuration that each command reads."""
EXAMPLES = {
    "": (
        "run quickstart",
        "run quickstart output=s3://bucket/run subject.model=EleutherAI/pythia-70m",
        "train -c run.yaml training.dictionaries.topk.sae.k=32",
        "init run.yaml --model ./my-model --text 'data/*.jsonl'",
        "plan -c run.yaml",
        "show runs/quickstart/store --verify",
        "serve runs/quickstart",
        "submit run -c run.yaml --address http://head:8265 --follow",
    ),
    "run": (
        "run quickstart",
        "run output=runs/mine subject.model=./my-model corpus.text='data/*.jsonl' corpus.train_tokens=1000000",
        "run -c run.yaml training.dictionaries.topk.sae.k=32 --overlap",
    ),
    "pretrain": ("pretrain -c pretrain", "pretrain output=runs/model pretraining.corpus.text='data/*.txt'"),
    "harvest": (
        "harvest -c run.yaml",
        "harvest -c run.yaml harvest.hookpoints='[blocks.0.hook_out, blocks.1.hook_out]'",
        "harvest -c run.yaml store=s3://bucket/store harvest.num_workers=8",
    ),
    "train": (
        "train -c run.yaml",
        "train -c run.yaml training.dictionaries.topk.sae.k=32",
        "train -c sweep store=runs/quickstart/store",
    ),
    "evaluate": ("evaluate -c run.yaml", "evaluate -c run.yaml evaluation.num_sequences=200", "evaluate -c run.yaml evaluation.text='other/*.txt'"),
    "concepts": ("concepts -c run.yaml evaluation.concepts.text=labelled.jsonl", "concepts -c labelled"),
    "interpret": (
        "interpret -c run.yaml",
        "interpret -c run.yaml interpretation.max_features=100",
        "interpret -c run.yaml interpretation.language_model.model=NAME --dry-run",
    ),
    "report": ("report -c run.yaml", "report output=runs/quickstart"),
    "config": ("config quickstart", "config -c run.yaml > all.yaml", "config --schema > monosem.schema.json"),
    "plan": ("plan -c run.yaml", "plan -c run.yaml --rates rates.jsonl harvest.num_workers=64 plan.gpu_hour=2.5"),
    "submit": ("submit run -c run.yaml output=s3://bucket/run --address http://head:8265 --follow",),
}


def main_help(width: int) -> str:
    """The help of the program: commands and examples."""
    rows = [(name, verb.summary) for name, verb in VERBS.items()]
    options = [("-h, --help", "show this message"), ("--version", "show the version")]
    lines = ["usage: monosem COMMAND [arguments]", "", *textwrap.wrap(DESCRIPTION, width), "", "commands:", *_table(rows, width)]
    lines += ["", "options:", *_table(options, width), "", "examples:", *_examples("", width), ""]
    return "\n".join([*lines, *textwrap.wrap("`monosem COMMAND --help` shows its keys and options; `monosem keys` lists all keys.", width), ""])


def command_help(name: str, width: int) -> str:
    """The keys and examples of a command, as the end of its help."""
    rows = [(f"{key} = {KEYS[key][0]}", KEYS[key][1]) for key in USED[name]]
    more = f"All its keys: `monosem {name} --help-all`; all keys: `monosem keys`. Sections that {name} reads: {SECTIONS[name]}."
    lines = ["", "keys changed most often (key = default, type: meaning):", *_table(rows, width), "", "examples:", *_examples(name, width), ""]
    return "\n".join([*lines, *textwrap.wrap(more, width), ""])


def _table(rows: list[tuple[str, str]], width: int) -> list[str]:
    """Two columns; a first one that is too wide has the second below it."""
    column = min(max(len(first) for first, _ in rows), width // 2) + 4
    lines = []
    for first, second in rows:
        indent = " " * column
        wrapped = textwrap.wrap(second, width, initial_indent=indent, subsequent_indent=indent)
        if len(first) + 4 <= column:
            wrapped[0] = f"  {first:<{column - 2}}{wrapped[0].strip()}"
        else:
            wrapped.insert(0, f"  {first}")
        lines += wrapped
    return lines


def _examples(name: str, width: int) -> Iterable[str]:
    for example in EXAMPLES[name]:
        words = textwrap.wrap(f"monosem {example}", width - 4, break_long_words=False, break_on_hyphens=False, subsequent_indent="    ")
        yield " \\\n".join(f"  {line}" for line in words)
