"""Recognition of the layout of a directory, and messages where it has none: names of the hub, folders of several dictionaries."""

import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from sae.checkpoint import WEIGHTS_KEY
from sae.errors import InputError
from sae.interoperability.reading import printable
from sae.storage import Place

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/.*)?")  # user/model, or a folder below
SHOWN_FOLDERS = 5
SEARCHED_LEVELS = 3
SEARCHED_FILES = 10_000


def layout_of(source: Place, layouts: Mapping[str, ModuleType]) -> str:
    """The layout of the dictionary in a directory, told by its files.

    Raises:
        InputError: it holds none; the message says where one is, as far as that can be seen.
    """
    for layout, library in layouts.items():
        if source.exists(library.WEIGHTS_KEY) and source.exists(library.CONFIG_KEY):
            return layout
    if source.exists(WEIGHTS_KEY):
        raise InputError(f"{source.url} holds a dictionary of this tool, which needs no import. Use it as it is")
    local = source.local_path()
    if local is not None and not local.exists() and HUB_NAME.fullmatch(source.url):
        raise InputError(
            f"{source.url} is no directory here. If it is a name of the Hugging Face hub, download it first "
            f"(`hf download {source.url} --local-dir DIR`) and import DIR"
        )
    folders = sorted({printable(folder, 200) for key in _keys(source) if (folder := _folder_of(key, layouts))})
    if folders:
        more = f" and {len(folders) - SHOWN_FOLDERS} more" if len(folders) > SHOWN_FOLDERS else ""
        raise InputError(
            f"{source.url} holds several dictionaries in folders of their own: {', '.join(folders[:SHOWN_FOLDERS])}{more}. "
            f"Import one of them, e.g. {source.url}/{folders[0]}"
        )
    expected = "; ".join(f"{library.CONFIG_KEY} and {library.WEIGHTS_KEY} ({layout})" for layout, library in layouts.items())
    raise InputError(f"{source.url} holds no dictionary of a known layout. Expected: {expected}")


def _folder_of(key: str, layouts: Mapping[str, ModuleType]) -> str:
    folder, _, name = key.rpartition("/")
    return folder if name in {library.WEIGHTS_KEY for library in layouts.values()} else ""


def _keys(source: Place) -> Iterable[str]:
    local = source.local_path()
    if local is None:
        return source.list()
    found = itertools.chain.from_iterable(local.glob("/".join(["*"] * level)) for level in range(1, SEARCHED_LEVELS + 2))
    return [_key(path, local) for path in itertools.islice(found, SEARCHED_FILES)]


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
