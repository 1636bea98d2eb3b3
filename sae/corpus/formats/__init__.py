"""Readers of text files: plain text, JSON lines and Parquet, chosen by a file's name and checked against its content."""

from sae.corpus.formats.compression import decompressed
from sae.corpus.formats.fields import TextField
from sae.corpus.formats.json_lines import json_records
from sae.corpus.formats.parquet import parquet_texts
from sae.corpus.formats.plain import plain_texts
from sae.corpus.formats.recognition import FileFormat, recognise, shown

__all__ = ["FileFormat", "TextField", "decompressed", "json_records", "parquet_texts", "plain_texts", "recognise", "shown"]
