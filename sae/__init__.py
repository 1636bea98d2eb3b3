"""The library: mathematics, data contract and measurement, without Ray."""
