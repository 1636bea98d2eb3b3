"""Documents to the split that each belongs to: held-out text is a function of content, so that it never crosses over into training.

A document is held out if the digest of its normal form lies below a threshold. The normal form keeps letters and digits alone, in Unicode's
compatibility form (NFKC) and without case: documents that differ in white space, line ends, punctuation, case or the encoding of accents fall
on one side. Documents with one body under different headers do not: no part of a text says which of its words are a header, and a rule that
took the longest part for the body would put all short documents with a common header on one side. The threshold is `held_out_fraction`, so
another corpus that holds the same document puts it on the same side.

A small corpus is the exception: where the first documents do not fill both splits, the whole corpus is ranked by digest and the lowest
are held out, so that neither split is empty by chance. Where there are fewer documents than one in `1 / held_out_fraction` (one book, two
files), they are cut into pieces at paragraphs, and the pieces are ranked.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from sae.corpus.formats.plain import SEPARATOR
from sae.corpus.sources import DEPENDENCIES, CorpusConfig, documents

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")
DIGESTS = 2**64
MOST_DOCUMENTS_RANKED = 1000
CHARACTERS_PER_TOKEN = 16  # more than tokenizers reach on text: so many characters of a split fill several sequences
PIECES_PER_HELD_OUT = 4
MIN_PIECE, MAX_PIECE = 64, 65536
_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")
_BOUNDARIES = ("\n\n", "\n", ". ", " ")


def split_documents(config: CorpusConfig, counts: dict[str, int] | None = None) -> Iterator[tuple[Split, str]]:
    """Yield `(split, text)` of every document that is neither empty nor a repetition.

    Args:
        config: which text; about `held_out_fraction` of the documents go to the held-out split.
        counts: receives how many documents were read, were repetitions, were empty (null, absent or blank), or hold `<|endoftext|>` as text.
    """
    counts = {} if counts is None else counts
    counts.update({"read": 0, "duplicates": 0, "empty": 0, "with_separator": 0} | counts)
    rule = _rule(config)
    seen: set[bytes] = set()
    for _, text in documents(config):
        counts["read"] += 1
        if not text.strip():
            counts["empty"] += 1
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if digest in seen:
            counts["duplicates"] += 1
            continue
        seen.add(digest)
        counts["with_separator"] += SEPARATOR in text
        yield from rule.parts(text)


def normal_form(text: str) -> str:
    """The letters and digits of a text, in NFKC and without case; the text without its white space where it has none."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NO_LETTER_OR_DIGIT.sub("", folded) or "".join(folded.split())


def pieces(text: str, size: int) -> list[str]:
    """Cut a text into pieces of `size / 2` to `size` characters, after a paragraph, line, sentence or word where one ends there."""
    cut, start = [], 0
    while len(text) - start > size:
        low, high = start + size // 2, start + size
        found = ((text.rfind(mark, low, high), mark) for mark in _BOUNDARIES)
        stop = next((at + len(mark) for at, mark in found if at >= 0), high)
        cut.append(text[start:stop])
        start = stop
    return [*cut, text[start:]]


@dataclass(frozen=True)
class _Rule:
    """Rule that decides which texts are held out.

    Attributes:
        threshold: digests below it.
        piece: characters of the pieces that documents are cut into, or None to leave them whole.
        exact: digest the text as it stands, without its normal form.
    """

    threshold: int
    piece: int | None
    exact: bool

    def parts(self, text: str) -> Iterator[tuple[Split, str]]:
        """The document with its split, or its runs of pieces that share a split."""
        whole = [text] if self.piece is None else pieces(text, self.piece)
        for held_out, run in groupby(whole, lambda part: self.digest(part) < self.threshold):
            if (part := "".join(run)).strip():
                yield ("held_out" if held_out else "train"), part

    def digest(self, text: str) -> int:
        """The last bytes of the SHA-256: the dependency source yields its files in the order of the first ones."""
        return int.from_bytes(hashlib.sha256((text if self.exact else normal_form(text)).encode()).digest()[-8:])


def _rule(config: CorpusConfig) -> _Rule:
    # The embedded corpus is pinned file by file: no two of its files differ in their form alone and fall on two sides, and the embedded
    # subject was trained on one side of it.
    exact = config.text == [DEPENDENCIES]
    usual = _Rule(round(config.held_out_fraction * DIGESTS), None, exact)
    enough = CHARACTERS_PER_TOKEN * config.context_length
    many = min(math.ceil(1 / config.held_out_fraction), MOST_DOCUMENTS_RANKED)
    lengths: dict[int, int] = {}
    held_out = total = 0
    for _, text in documents(config):
        digest, length = usual.digest(text), len(text.strip())
        if length == 0 or digest in lengths:
            continue
        lengths[digest] = length
        total += length
        held_out += length if digest < usual.threshold else 0
        if len(lengths) >= many and min(held_out, total - held_out) >= enough:
            return usual
    return _small_rule(config, usual, lengths, many, enough)


def _small_rule(config: CorpusConfig, usual: _Rule, lengths: dict[int, int], many: int, enough: int) -> _Rule:
    total = sum(lengths.values())
    piece = None
    if len(lengths) < many or max(lengths.values()) > total / 2:
        share = max(total * config.held_out_fraction, min(enough, total / 2))
        piece = max(MIN_PIECE, min(MAX_PIECE, int(share / PIECES_PER_HELD_OUT)))
        cut = (part for _, text in documents(config) for part in pieces(text, piece) if part.strip())
        lengths = {usual.digest(part): len(part) for part in cut}
    target = max(total * config.held_out_fraction, min(enough, total / 2))
    held_out, ranked = 0, sorted(lengths)
    for rank, digest in enumerate(ranked):
        if rank and (held_out >= target or digest == ranked[-1] or total - held_out - lengths[digest] < min(enough, total / 4)):
            return _Rule(digest, piece, usual.exact)
        held_out += lengths[digest]
    return _Rule(0, piece, usual.exact)  # at most one document that is its own
