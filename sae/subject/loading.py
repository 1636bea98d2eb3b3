"""Foreign models, loaded through transformers and TransformerLens: nothing is installed, unpickled or drawn at random, and errors are one line."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from sae.errors import InputError, MonosemError
from sae.subject.tokenization import SubjectTokenizer
from sae.tensor_files import unusable_tensor

ATTENTION = "sdpa"
MOST_NAMED = 5
_EXPECTED = "Expected a local directory with config.json, model.safetensors and tokenizer.json, or a hub name on a machine that reaches the hub"
# Left over, these mean another architecture; buffers and the towers of multimodal models do not.
_LEFT_OVER = re.compile(r"\.\d+\..*weight$|^(score|classifier|qa_outputs|v_head|value_head|reward_head)\.")


@contextlib.contextmanager
def one_line_errors(model: str) -> Iterator[None]:
    """Turn whatever the libraries raise about a model into an InputError of one line.

    Raises:
        InputError: the block raised anything but an error of this project or a lack of memory.
    """
    try:
        yield
    except (MonosemError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers raises plain Exception; its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        reason = f"nothing is known by the name {reason}" if isinstance(error, KeyError) else reason
        raise InputError(f"cannot load the model {model!r}: {reason.rstrip('. ')}. {_EXPECTED}") from None


def load_weights(directory: str, model: str, dtype: torch.dtype, device: str) -> Any:
    """Load a causal language model from safetensors.

    Args:
        directory: local directory or hub name.
        model: its name in messages.
        dtype: of the weights.
        device: "meta" reads the headers of the files and no weight.

    Raises:
        InputError: tensors are missing, of another shape, left over, or hold values that are not finite.
    """
    from transformers.utils.logging import disable_progress_bar  # a second of import

    disable_progress_bar()  # its bar over a handful of tensors would run into those of the stages
    # Headers first: where config.json and weights do not fit, the library would fill gigabytes with random numbers before it says so.
    described, report = _from_pretrained(directory, dtype, device_map="meta")
    _check_report(report, model)
    if device == "meta":
        return described.eval()
    loaded, report = _from_pretrained(directory, dtype)
    _check_report(report, model)
    if unusable := unusable_tensor(dict(loaded.named_parameters())):
        raise InputError(f"the weights of {model!r} cannot be used: {unusable}. Copy the model again")
    return loaded.to(device).eval()


def _from_pretrained(directory: str, dtype: torch.dtype, **options: Any) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    loaded, report = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=ATTENTION,
        use_safetensors=True,  # the other format is a pickle
        trust_remote_code=False,  # None asks at the terminal
        ignore_mismatched_sizes=True,  # they are named below
        output_loading_info=True,
        **options,
    )
    return loaded, report


def boot_bridge(name: str, loaded: Any, tokenizer: SubjectTokenizer, device: str) -> Any:
    """Wrap a loaded model in TransformerLens' bridge; the bridge changes it.

    Loading of image and audio processors is replaced: it installs packages with pip where torchvision is missing, and text needs none.
    """
    from transformer_lens.model_bridge import TransformerBridge  # three seconds of import
    from transformer_lens.model_bridge.sources.transformers import source

    if not callable(source.load_modality_processor):  # an AttributeError here: find the function's new place before raising the version
        raise TypeError("load_modality_processor is not a function")
    source.load_modality_processor = _load_no_processor
    return TransformerBridge.boot_transformers(name, hf_model=loaded, tokenizer=tokenizer.huggingface, device=device)


def check_tokenizer(tokenizer: SubjectTokenizer, rows: int, model: str) -> None:
    """Compare a tokenizer with the rows of an embedding.

    Raises:
        InputError: it has tokens without a row.
    """
    if tokenizer.largest_token_id >= rows:
        raise InputError(
            f"the tokenizer of {model!r} has token ids up to {tokenizer.largest_token_id:,}, its embedding has {rows:,} rows. "
            "Use the tokenizer that the model was trained with, or resize the embedding and save the model again"
        )


def _load_no_processor(*_: Any) -> None:
    return None


def _check_report(report: dict[str, Any], model: str) -> None:
    if report["mismatched_keys"]:
        name, found, expected = min(report["mismatched_keys"])
        raise InputError(
            f"tensor {name!r} of {model!r} has the shape {list(found)}, config.json asks for {list(expected)} "
            f"({len(report['mismatched_keys'])} tensors differ). Copy config.json and the weights from one model"
        )
    if report["missing_keys"]:
        raise InputError(
            f"the weight files of {model!r} lack {_named(report['missing_keys'])}. Copy the model again, and check `architectures` in config.json"
        )
    unused = [name for name in report["unexpected_keys"] if _LEFT_OVER.search(name)]
    if unused:
        raise InputError(
            f"the weight files of {model!r} hold {_named(unused)} that config.json has no place for. "
            "Check the number of layers and `architectures` in config.json"
        )
    if report["error_msgs"]:
        raise InputError(f"cannot load the weights of {model!r}: {' '.join(map(str, report['error_msgs']))[:300]}. Copy the model again")


def _named(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - MOST_NAMED} more" if len(ordered) > MOST_NAMED else ""
    return f"{len(ordered)} tensors: {', '.join(name[:80] for name in ordered[:MOST_NAMED])}{more}"
