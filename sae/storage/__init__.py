"""A URL as a place for whole objects: put once, ranged read, list, exists, digest. On disk, in S3, or wherever fsspec reaches."""

from sae.storage.place import Entry, Place, UnfinishedUpload, absolute_url, sha256_hex, to_json

__all__ = ["Entry", "Place", "UnfinishedUpload", "absolute_url", "sha256_hex", "to_json"]
