"""How a step's cost grows with the number of features, against how the encode product's does: the ratio should stay flat."""

import torch

from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.train_steps import BATCH, D_IN, L0, medians, our_run, own_sides, real_batch

WIDTHS = (2048, 4096, 8192, 16384, 32768, 65536)


def measure() -> Measurement:
    torch.set_num_threads(2)
    x = real_batch()
    found = {}
    for d_sae in WIDTHS:
        run = our_run(x, "relu", d_sae)
        found[d_sae] = medians(own_sides(x, run), rounds=9 if d_sae <= 8192 else 3)
        del run
    ratios = {d_sae: times["monosem"] / times["encode_product"] for d_sae, times in found.items()}
    growth = max(ratios.values()) / min(ratios.values())
    details = {
        "batch": BATCH, "d_in": D_IN, "l0": L0, "ratio_by_d_sae": {str(d_sae): round(ratio, 3) for d_sae, ratio in ratios.items()},
        "milliseconds_by_d_sae": {str(d_sae): {name: round(1e3 * value, 1) for name, value in times.items()} for d_sae, times in found.items()},
    }  # fmt: skip
    return Measurement(growth, "largest ratio over smallest", {"growth": growth}, {"growth": Bar("<=", 1.5)}, details)
