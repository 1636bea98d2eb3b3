"""The verbs that run stages."""

import argparse

from jobs.budget import print_estimate, with_max_cost
from jobs.loading import load_config
from jobs.results import concept_lines, evaluation_lines, interpretation_lines, results_table
from jobs.run import run_stages
from jobs.stages import WHOLE_WAY
from sae.log import start_logging
from sae.run.layout import REPORT_KEY

# What a stage alone ends with; the others say only that they are done.
LINES_OF = {"interpret": interpretation_lines, "evaluate": evaluation_lines, "concepts": concept_lines}


def stage_verb(options: argparse.Namespace) -> None:
    """Run one stage, or all of them for `run`."""
    config = with_max_cost(load_config(options.config, options.overrides), getattr(options, "max_cost", None))
    if getattr(options, "dry_run", False):
        print_estimate(config)
        return
    start_logging()
    names = WHOLE_WAY if options.verb == "run" else (options.verb,)
    run_stages(config, names, from_scratch=getattr(options, "from_scratch", False), overlap=getattr(options, "overlap", False))
    if options.verb in ("run", "report"):
        print("", *results_table(config.place), sep="\n")
    else:
        lines = LINES_OF[options.verb](config.place) if options.verb in LINES_OF else []
        if options.verb in LINES_OF and config.place.exists(REPORT_KEY):
            lines.append("report.html was written before: run `monosem report` to refresh it")
        print("\n".join([*lines, f"{options.verb}: done, in {config.output}"]))
