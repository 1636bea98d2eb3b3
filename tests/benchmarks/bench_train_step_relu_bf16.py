"""The ReLU-L1 step whose candidates a bfloat16 product finds, against the peers' steps in float32; the result is that of float32."""

from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.train_steps import beside_peers, ratios_of


def measure() -> Measurement:
    times, details = beside_peers("relu", "bfloat16", rounds=7)
    bars = {"fastest_peer": Bar(">=", 7.0)}
    return Measurement(1e3 * times["monosem"], "ms a step", ratios_of(times), bars, details)
