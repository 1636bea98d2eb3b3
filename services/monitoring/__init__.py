"""Metrics, progress and memory of a command."""
