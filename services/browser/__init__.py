"""The report of a run over HTTP: read-only, without torch or ray, from a directory or an object store."""
