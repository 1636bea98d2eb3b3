"""The text of the project's own pinned dependencies: byte-identical real text on every machine, with no download.

The file set is what each wheel's RECORD lists, its suffix taken from `TEXT_SUFFIXES`, and every file is checked against the hash
that RECORD gives it. `dependencies.json`, beside this file, pins for each distribution its version and one digest over names and
hashes; another version, or an edited file, is an error and never a silently different corpus.

Only pure-Python wheels (`py3-none-any`) are taken. Platform wheels of one version are not the same text everywhere: numpy 2.4.6
ships `numpy/distutils` (80 files) in its CPython 3.11 wheel and not in its 3.12 one. torch has a CPU and a CUDA build, which
differ too.
"""

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

from sae.errors import InputError

TEXT_SUFFIXES = frozenset({".py", ".pyi", ".md", ".rst", ".txt"})
LEGAL_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")
# Written by the installer, or different on every machine.
NOT_IN_THE_WHEEL = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})
LOCK_PATH = Path(__file__).with_name("dependencies.json")


def dependency_documents(lock_path: Path = LOCK_PATH) -> Iterator[tuple[str, str]]:
    """Yield `(name, text)` of every text file of the locked distributions, in ascending order of the file's SHA-256.

    That order is a fixed shuffle: any prefix of it is a fair sample of all distributions.

    Raises:
        InputError: a distribution is missing, of another version, or was changed after its installation.
    """
    lock = json.loads(lock_path.read_text())
    files = [file for name, locked in sorted(lock.items()) for file in _checked_files(name, locked)]
    for digest, name, path in sorted(files):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(f"{path} differs from what its wheel's RECORD says: reinstall the package (pip install --force-reinstall)")
        yield name, data.decode()  # the lock names no file that is not UTF-8


def lock_distributions(names: list[str]) -> dict[str, dict[str, object]]:
    """Return the content of `dependencies.json` for the installed versions of `names`: version, files, bytes, sha256."""
    return {name: _describe(importlib.metadata.distribution(name)) for name in sorted(names)}


def is_pure(distribution: importlib.metadata.Distribution) -> bool:
    """Say whether a distribution was installed from a wheel that is the same on every platform and Python version."""
    wheel = distribution.read_text("WHEEL") or ""
    return "Root-Is-Purelib: true" in wheel and "Tag: py3-none-any" in wheel


def _checked_files(name: str, locked: dict[str, object]) -> list[tuple[str, str, Path]]:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the corpus needs the package {name}=={locked['version']}, which is not installed: run `make install`") from None
    found = _describe(distribution)
    if found != locked:
        raise InputError(
            f"the corpus needs {name}=={locked['version']} ({locked['files']} files, sha256 {str(locked['sha256'])[:12]}), "
            f"found {found['version']} ({found['files']} files, {str(found['sha256'])[:12]}): install with `-c constraints.txt`"
        )
    return _text_files(distribution)


def _describe(distribution: importlib.metadata.Distribution) -> dict[str, object]:
    files = _text_files(distribution)
    digest = hashlib.sha256("".join(f"{name}\0{sha}\n" for sha, name, _ in sorted(files, key=lambda file: file[1])).encode())
    size = sum(path.stat().st_size for _, _, path in files)
    return {"version": distribution.version, "files": len(files), "bytes": size, "sha256": digest.hexdigest()}


def _text_files(distribution: importlib.metadata.Distribution) -> list[tuple[str, str, Path]]:
    chosen = []
    for file in distribution.files or []:
        name = file.name
        wanted = file.suffix in TEXT_SUFFIXES or name == "METADATA" or name.upper().startswith(LEGAL_NAMES)
        if not wanted or name in NOT_IN_THE_WHEEL or ".." in file.parts or file.hash is None:
            continue
        sha = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()
        chosen.append((sha, file.as_posix(), Path(str(distribution.locate_file(file)))))
    return chosen
