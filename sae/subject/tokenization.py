"""The subject model's tokenizer: loading one, and training a byte-level BPE of our own."""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from sae.errors import InputError
from sae.subject.tokens_shown import TokenTexts, byte_token, piece_reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


class SubjectTokenizer:
    """The tokenizer of a subject model, as corpus, harvest and interpretation see it.

    Args:
        directory: a local directory with `tokenizer.json`, or a name that `transformers` can load.
        model: its name in messages; the directory where it is left out.

    Raises:
        InputError: there is no fast tokenizer, it is damaged, has special tokens alone, or names neither BOS nor EOS.
    """

    def __init__(self, directory: str, model: str | None = None) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast  # a second of import: only who reads tokens pays it

        name = model or directory
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)  # None asks at the terminal
        except BaseException as error:  # the library raises plain Exception; its panics are no Exception
            if isinstance(error, MemoryError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                raise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"cannot load a tokenizer from {name!r}: {reason.rstrip('. :')}. Check config.json, or copy the tokenizer's files again"
            ) from None
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise InputError(f"{name!r} has no tokenizer.json: only fast tokenizers are supported")
        ends = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None]
        if not ends:
            raise InputError(f"the tokenizer of {name!r} names neither a BOS nor an EOS token")
        self.bos_token_id, self.eos_token_id = int(ends[0]), int(ends[-1])
        unknown = tokenizer.unk_token_id
        self.unknown_token_id = None if unknown in (None, *ends) else int(unknown)
        self.special_token_ids = frozenset(int(token) for token in (*tokenizer.all_special_ids, *ends) if token is not None)
        ids = {int(token) for token in tokenizer.get_vocab().values()}
        if ids <= self.special_token_ids:  # transformers makes an empty tokenizer where a directory has no file of one
            raise InputError(f"the tokenizer of {name!r} has no token but {len(ids)} special ones. Copy tokenizer.json to the model's directory")
        self.largest_token_id = max(ids | self.special_token_ids)
        self.huggingface = tokenizer
        self._fast: FastTokenizer = tokenizer.backend_tokenizer
        # Truncation or padding saved in tokenizer.json would silently shorten or fill documents.
        self._fast.no_truncation()
        self._fast.no_padding()
        self.digest = hashlib.sha256(self._fast.to_str().encode()).hexdigest()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, without special tokens; special tokens spelt out in a text are read as plain text."""
        self._fast.encode_special_tokens = True
        return [encoding.ids for encoding in self._fast.encode_batch(texts, add_special_tokens=False)]

    @cached_property
    def token_texts(self) -> TokenTexts:
        """Return the text of each token; `shown_line` shows tokens that follow each other."""
        content = json.loads(self._fast.to_str())
        names = [self._fast.id_to_token(token) or "" for token in range(self._fast.get_vocab_size(with_added_tokens=True))]
        added = self._fast.get_added_tokens_decoder()
        special = self.special_token_ids | {token for token, each in added.items() if each.special}
        read = piece_reader(content)
        pieces = [name.encode() if token in special else read(name) for token, name in enumerate(names)]
        falls_back = bool((content.get("model") or {}).get("byte_fallback"))
        return TokenTexts(pieces, special, [token for token, name in enumerate(names) if falls_back and byte_token(name)])


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE with `<|endoftext|>` as its BOS and EOS.

    Reference: byte-level BPE as in GPT-2 (Radford et al. 2019, section 2.2).

    Args:
        texts: documents to learn merges from.
        vocab_size: tokens, the 256 bytes and the special token included.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def save_tokenizer(tokenizer: "PreTrainedTokenizerFast", directory: Path) -> None:
    """Save a tokenizer so that `AutoTokenizer` loads it."""
    tokenizer.save_pretrained(directory)
