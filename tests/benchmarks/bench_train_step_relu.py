"""A whole ReLU-L1 training step against the encode product that no one can avoid, and against the peers' steps."""

from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.train_steps import beside_peers, ratios_of


def measure() -> Measurement:
    times, details = beside_peers("relu", "float32", rounds=7)
    bars = {"encode_product": Bar("<=", 1.5), "fastest_peer": Bar(">=", 4.5)}
    return Measurement(1e3 * times["monosem"], "ms a step", ratios_of(times), bars, details)
