"""What `monosem plan` says of a small run, against that run: the whole and every stage, on the embedded model and text.

The plan's rates are measured on this machine just before, as for anyone. `off_by` is |planned − real| / real of the whole run; the stages are
told, not judged. At this size most of a stage is the start of its workers: so it is the fixed costs of the plan that are tested most.
"""

import subprocess
import sys
from pathlib import Path

from jobs.loading import load_config
from jobs.plan import count_amounts, crews
from jobs.rates import measured_rates
from sae.storage import Place
from sae.subject.model import Subject
from services.cluster.capacity import estimate
from tests.benchmarks.harness import Bar, Measurement
from tests.benchmarks.harvests import on_disk

CONFIG = Path(__file__).parents[2] / "jobs" / "configs" / "quickstart.yaml"
SMALLER = [
    "corpus.train_tokens=300_000",
    "corpus.held_out_tokens=40_000",
    "training.dictionaries.0.sae.d_sae=1024",
    "training.dictionaries.1.sae.d_sae=1024",
    "interpretation.explanation_sequences=256",
    "interpretation.scoring_sequences=100",
    "interpretation.max_features=256",
]


def measure() -> Measurement:
    with on_disk() as directory:
        overrides = [f"output={directory / 'run'}", *SMALLER]
        config = load_config(str(CONFIG), overrides)
        widths = {name: Subject.load(config.subject).width(name) for name in config.harvest.hookpoints}
        planned = estimate(count_amounts(config, widths), measured_rates(config, widths), crews(config), False, config.plan)
        subprocess.run([sys.executable, "-m", "jobs", "run", "-c", str(CONFIG), *overrides], stdout=sys.stderr, check=True)
        real = {name: cost["seconds"] for name, cost in Place(config.output).get_json("stages.json")["stages"].items()}
    plan = {stage.name: stage.seconds for stage in planned.stages}
    plan["harvest"] += plan.pop("tokenise")  # one stage of a run, which begins with its cluster
    whole = sum(real.values())
    ratios = {"off_by": abs(sum(plan.values()) - whole) / whole, **{name: plan[name] / real[name] for name in plan}}
    details = {"planned_seconds": plan, "real_seconds": real}
    return Measurement(whole, "s of a run", ratios, {"off_by": Bar("<=", 0.2)}, details)
