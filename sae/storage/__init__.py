"""A URL as a place for whole objects: put once, ranged read, list, exists, digest. On disk, in S3, or wherever fsspec reaches."""

from sae.storage.arrow_file import ArrowFile
from sae.storage.arrow_metadata import ArrowFileError
from sae.storage.json_objects import parse_json, parse_json_lines, sealed, to_json, unsealed, without_surrogates
from sae.storage.place import Entry, Place, UnfinishedUpload, sha256_hex
from sae.urls import absolute_url, check_output_url, refuse_credentials

__all__ = [
    "ArrowFile",
    "ArrowFileError",
    "Entry",
    "Place",
    "UnfinishedUpload",
    "absolute_url",
    "check_output_url",
    "parse_json",
    "parse_json_lines",
    "refuse_credentials",
    "sealed",
    "sha256_hex",
    "to_json",
    "unsealed",
    "without_surrogates",
]
