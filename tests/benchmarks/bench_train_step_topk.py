"""A whole TopK training step, k = 32, against the peers' steps."""

from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.train_steps import beside_peers, ratios_of


def measure() -> Measurement:
    times, details = beside_peers("topk", "float32", rounds=7)
    bars = {"fastest_peer": Bar(">=", 5.0)}
    return Measurement(1e3 * times["monosem"], "ms a step", ratios_of(times), bars, details)
