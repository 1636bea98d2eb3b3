"""Names of models and texts as others can know them: for what leaves this machine, such as exports, model cards and SAEBench's files.

A path says where something is on one machine, and often whose machine it is. Only its last part is kept, with a digest of the content.
"""

import os
import re

SHOWN_DIGEST = 12  # characters


def public_name(name: object, digest: object = None) -> str | None:
    """A name of the hub as it is; of a path or URL the last part and the digest; None for anything else than a name.

    Args:
        name: a name of the hub, `embedded`, a path or a URL.
        digest: of the content, as hexadecimal text.

    Example:
        >>> public_name("EleutherAI/pythia-70m"), public_name("/home/ann/m1", "17518c8c0000ffff")
        ('EleutherAI/pythia-70m', 'm1@17518c8c0000')
    """
    if not isinstance(name, str) or not name.strip():
        return None
    if not _is_path(name):
        return name
    last = re.split(r"[/\\:]", name.rstrip("/\\"))[-1].strip(".~") or "local"
    return f"{last}@{digest[:SHOWN_DIGEST]}" if isinstance(digest, str) and digest else last


def public_dataset(sources: list[str], digest: str) -> str:
    """The text sources of a corpus, each by its public name.

    Args:
        sources: as `corpus.text` has them: `dependencies`, `hf:NAME`, paths and globs.
        digest: of the corpus.
    """
    names = (source.removeprefix("hf:") if source.startswith("hf:") else public_name(os.path.abspath(source)) for source in sources)
    return f"{', '.join(dict.fromkeys(filter(None, names)))}@{digest[:SHOWN_DIGEST]}"


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or ":" in name or name.count("/") > 1 or os.path.isdir(name)
