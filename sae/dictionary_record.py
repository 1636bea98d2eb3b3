"""`config.json` of a dictionary: its architecture, its widths, where it comes from, and the digest of its weights."""

import os
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sae.architectures.config import BUILT_IN, SAEConfig, registered
from sae.errors import ConfigError, InputError
from sae.records import Record, as_record
from sae.storage import Place, sealed, unsealed

FORMAT_VERSION = 2
CONFIG_KEY = "config.json"
Width = Annotated[int, Field(gt=0, le=2**24)]
Text = Annotated[str, Field(max_length=4096)]
Share = Annotated[float, Field(ge=0, le=1)]


class DictionaryMetadata(Record):
    """Origin of a dictionary, as far as it is known; an imported one may know little."""

    name: Text | None = Field(None, description="of the dictionary in its run")
    hookpoint: Text | None = Field(None, description="whose activations it encodes")
    target_hookpoint: Text | None = Field(None, description="whose activations a transcoder reconstructs")
    subject: Text | None = Field(None, description="name or path of the subject model")
    subject_digest: Text | None = Field(None, description="SHA-256 over the subject's weights in the precision it ran in")
    store_digest: Text | None = Field(None, description="of the store it was trained on")
    context_length: PositiveInt | None = Field(None, description="tokens in a sequence of that store")
    dtype: Text | None = Field(None, description="precision of the activations in that store")
    vectors: NonNegativeInt | None = Field(None, description="activations it was trained on")
    dead_fraction: Share | None = Field(None, description="share of features that were dead at the end of training")
    imported: dict[str, Any] | None = Field(None, description="where an import came from, and what else the other library said")


class WeightsEntry(Record):
    """The file of the weights."""

    sha256: str
    bytes: PositiveInt


class DictionaryRecord(Record):
    """`config.json`, proved.

    `digest` covers every other field, so it names the dictionary with its weights and its origin.
    """

    format_version: int
    architecture: str
    d_in: Width
    d_out: Width | None = Field(None, description="width of what a transcoder reconstructs; absent: no transcoder")
    config: SAEConfig
    metadata: DictionaryMetadata
    weights: WeightsEntry
    digest: str

    @model_validator(mode="after")
    def _one_architecture(self) -> Self:
        if self.architecture != self.config.architecture:
            raise ValueError(f"architecture is {self.architecture[:40]!r}, config.architecture {self.config.architecture!r}")
        return self

    @property
    def is_transcoder(self) -> bool:
        """Say whether it reconstructs another activation than the one it encodes."""
        return self.d_out is not None


def put_dictionary_record(place: Place, content: dict[str, Any]) -> DictionaryRecord:
    """Write `config.json`; fields that are null are left out.

    Raises:
        ConfigError: a field is unknown or of a wrong type.
    """
    content = {name: value for name, value in {"format_version": FORMAT_VERSION, **content}.items() if value is not None}
    content["metadata"] = {name: value for name, value in content["metadata"].items() if value is not None}
    whole = sealed(content)
    record = _parsed(whole, place)
    place.put_json(CONFIG_KEY, whole)
    return record


def describe_dictionary(url: str | os.PathLike[str] | Place) -> DictionaryRecord:
    """Read and prove the `config.json` of a dictionary, without its weights.

    Raises:
        InputError: there is none, or it is not JSON.
        ConfigError: it was written by another version, or a field is missing, unknown or of a wrong type.
        CorruptObjectError: it was changed after it was written.
    """
    place = url if isinstance(url, Place) else Place(url)
    found = place.get_json(CONFIG_KEY)
    version = found.get("format_version") if isinstance(found, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ConfigError(
            f"{place.path(CONFIG_KEY)} is not of format version {FORMAT_VERSION} (found {str(version)[:40]}). "
            "Train the dictionary again; import an imported one again; or load it with the version of this tool that wrote it"
        )
    unsealed(found, place.path(CONFIG_KEY))
    name = found.get("architecture")
    if isinstance(name, str) and name not in BUILT_IN and registered(name) is None:
        raise ConfigError(
            f"{place.url} is a dictionary of the architecture {name[:40]!r}, which is not known here. Import the module that calls "
            f"sae.register({name[:40]!r}, …) first, or install its package"
        )
    return _parsed(found, place)


def _parsed(whole: dict[str, Any], place: Place) -> DictionaryRecord:
    try:
        return as_record(DictionaryRecord, whole, place.path(CONFIG_KEY), may_lack=True)
    except InputError as error:
        raise ConfigError(str(error)) from None
