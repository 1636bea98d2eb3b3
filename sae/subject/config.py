"""Configuration of the subject model, and the place of its files."""

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from sae.config import Config, Location, Seed
from sae.errors import InputError
from sae.subject.directory import check_directory, check_hub_files, refuse_gguf
from sae.subject.tokenization import SubjectTokenizer

EMBEDDED = "embedded"
EMBEDDED_DIRECTORY = Path(__file__).parents[1] / "embedded_subject"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SubjectConfig(Config):
    """Configuration of the subject model, and the precision it runs in."""

    model: Location = Field(
        EMBEDDED, description="a local Hugging Face directory, a name of the hub, or `embedded`: the one-layer model shipped here"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="precision of weights and activations while running")

    shuffle_seed: Seed | None = Field(
        None,
        exclude_if=lambda seed: seed is None,  # what was written before there was this field stays the same
        description="for a control: shuffle the entries of every weight matrix among themselves; null leaves the model as it is",
    )

    def absolute(self) -> "SubjectConfig":
        """The same model as a process in another working directory must name it."""
        path = os.path.expanduser(self.model)
        is_path = self.model.startswith((".", "~")) or os.path.isdir(path)
        return self.model_copy(update={"model": os.path.abspath(path)}) if is_path else self


def load_tokenizer(config: SubjectConfig) -> SubjectTokenizer:
    """The tokenizer of a subject model, without the model.

    Raises:
        InputError: there is none.
    """
    return SubjectTokenizer(model_directory(config), config.model)


def model_directory(config: SubjectConfig) -> str:
    """The model's directory, its files checked, or its name on the hub.

    Raises:
        InputError: there is no such directory, or its files are missing, damaged or do not fit each other.
    """
    if config.model == EMBEDDED:
        return str(EMBEDDED_DIRECTORY)
    path = os.path.expanduser(config.model)
    is_path = config.model.startswith((".", "/", "~")) or config.model.count("/") > 1  # a name of the hub has one at most
    refuse_gguf(Path(path))
    if os.path.isdir(path):
        check_directory(Path(path))
    elif is_path:
        raise InputError(f"no model directory at {config.model!r}: check `subject.model`, or make one with `monosem pretrain`")
    else:
        check_hub_files(path)
    return path
