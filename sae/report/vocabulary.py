"""The text of a run's tokens: from the interpretation itself, or from the model that the run names."""

from collections.abc import Sequence

from sae.errors import InputError
from sae.interpretation.text.vocabulary import VOCABULARY_KEY, read_vocabulary
from sae.report.gather import RunRecord, gather
from sae.storage import Place


def run_vocabulary(run: Place, record: RunRecord | None = None) -> Sequence[str]:
    """The vocabulary of the subject of a run.

    Args:
        run: the run directory.
        record: what it holds; by default it is read here.

    Raises:
        InputError: neither the run nor a model that it names gives the text of its tokens; the message says why not.
        CorruptObjectError: the run's vocabulary was changed, or is of another tokenizer than its corpus.
    """
    record = record or gather(run)
    digest = record.corpus["tokenizer_digest"] if record.corpus else None
    place = run.child("interpretation")
    if place.exists(VOCABULARY_KEY):
        return read_vocabulary(place, digest)
    from sae.subject.model import SubjectConfig, load_tokenizer  # seconds of import that a run with its vocabulary does not need

    reasons = []
    for model in _models(record):
        try:
            tokenizer = load_tokenizer(SubjectConfig(model=model))
        except InputError:
            reasons.append(f"the tokenizer of {model!r} cannot be loaded")
            continue
        if digest in (None, tokenizer.digest):
            return tokenizer.token_texts
        reasons.append(f"{model!r} has another tokenizer than the corpus was made with")
    raise InputError(
        f"the text of the tokens is unknown: there is no {place.path(VOCABULARY_KEY)}, and {'; '.join(reasons) or 'the run names no model'}. "
        "Copy the subject model to where the run names it, or run `monosem interpret` again, which writes the vocabulary"
    )


def _models(record: RunRecord) -> list[str]:
    """The names of the subject that the store, the configuration and the dictionaries hold."""
    subjects = [(record.config or {}).get("subject"), *(dictionary.config["metadata"] for dictionary in record.dictionaries if dictionary.config)]
    names = [(record.store or {}).get("plan", {}).get("subject")]
    names += [subject.get(key) for subject in subjects if isinstance(subject, dict) for key in ("model", "subject")]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))
