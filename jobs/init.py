"""`monosem init`: write a commented configuration file to begin with."""

import argparse
import json
from pathlib import Path

from jobs.config import RunConfig
from jobs.model_sizes import hookpoint_width, model_configuration
from jobs.yaml_text import parse_yaml
from sae.errors import ConfigError
from sae.subject.model import EMBEDDED

TEMPLATE = """\
# Configuration of a Monosem run. `monosem plan -c {file}` estimates time and memory, `monosem run -c {file}` runs all stages.
# Every other key keeps its default: `monosem keys` lists them, `monosem config -c {file}` prints all values.

# Directory of the run: a path or a URL such as s3://bucket/run.
output: {output}

subject:
  # Hugging Face directory or hub name of the model; `embedded` is the one-layer model of this package.
  model: {model}

corpus:
  # Files, globs or hf:NAME of a data set; [dependencies] is the text of the installed packages.
  text: {text}
  # Field of the text in JSONL and Parquet.
  text_field: text
  # Tokens in a sequence.
  context_length: 256
  # Tokens to train on and to measure on; null: all the text, divided by corpus.held_out_fraction.
  train_tokens: {train_tokens}
  held_out_tokens: {held_out_tokens}

harvest:
  # Activations to store, TransformerLens names. {advice}
  hookpoints: [{hookpoint}]

training:
  # Vectors a step.
  batch_size: 2048
  dictionaries:
    - name: topk
      # d_sae: features; k: active features per vector.
      sae: {{architecture: topk, d_sae: {d_sae}, k: 32}}
      optimizer: {{learning_rate: 5e-4}}
"""
EXPANSION = 8  # features for each dimension of the activations
ONLY_ADVICE = "The model has one block."
BLOCK_ADVICE = "Block {block} is in the middle of the model."
UNKNOWN_ADVICE = "Every model has block 0; later blocks hold more abstract features."


def init_verb(options: argparse.Namespace) -> None:
    """Write the file and print how to use it.

    Raises:
        ConfigError: the file exists or cannot be written, or a value is not allowed.
    """
    path = Path(options.file).expanduser()
    text = configuration_text(options.file, options.model, options.text)
    RunConfig.parse(parse_yaml(text, options.file))
    try:
        with path.open("x") as file:  # never over a file that somebody has edited
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{options.file!r} exists already. `monosem init` writes new files only. Choose another name or delete it.") from None
    except OSError as error:
        raise ConfigError(f"{options.file!r} cannot be written: {error.strerror}. Name a file in a directory that exists.") from None
    print(f"{options.file}: written. Estimate the run with `monosem plan -c {options.file}`, start it with `monosem run -c {options.file}`.")


def configuration_text(file: str, model: str, text: list[str]) -> str:
    """The commented YAML text of a run with this subject model and this text (all the text of the installed packages where it is empty)."""
    found = model_configuration(model)
    layers = next((found[key] for key in ("num_hidden_layers", "n_layer") if isinstance(found.get(key), int)), None)
    block = (layers or 1) // 2
    hookpoint = f"blocks.{block}.{'mlp.hook_post' if model == EMBEDDED else 'hook_resid_post'}"
    width = hookpoint_width(found, hookpoint) if found else 1024
    advice = UNKNOWN_ADVICE if layers is None else ONLY_ADVICE if layers == 1 else BLOCK_ADVICE.format(block=block)
    is_local = bool(text) and not any(source.startswith("hf:") for source in text)
    return TEMPLATE.format(
        file=file,
        output=_quoted(f"runs/{Path(file).stem}"),
        model=_quoted(model),
        text=f"[{', '.join(map(_quoted, text or ['dependencies']))}]",
        # The size of a remote data set is not known: a plan needs a bound.
        train_tokens="null" if is_local else 10_000_000,
        held_out_tokens="null" if is_local else 500_000,
        advice=advice,
        hookpoint=hookpoint,
        d_sae=EXPANSION * width,
    )


def _quoted(text: str) -> str:
    """Text as YAML has it, in double quotation marks where it could be read as anything else."""
    is_plain = text.isascii() and text.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum() and text[0].isalpha()
    return text if is_plain and text not in ("null", "true", "false") else json.dumps(text, ensure_ascii=False)
