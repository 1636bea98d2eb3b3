"""`monosem submit VERB`: the same verb, as a job on a running cluster."""

import argparse
import sys

from jobs.loading import load_config
from sae.log import log, start_logging
from services.cluster.submission import connect_jobs, follow, submit


def submit_verb(options: argparse.Namespace) -> int:
    """Validate the configuration here, start the job there; with `--follow`, pass on its log and its exit code."""
    config = load_config(options.config, options.overrides)
    start_logging()
    client = connect_jobs(options.address)
    job = submit(client, options.job_verb, config.output, config.model_dump(mode="json"), options.python)
    log("submitted" if job.is_new else "already_running", job=job.job_id, output=config.output)
    if options.follow:
        return follow(client, job.job_id, _write)
    print(f"{job.job_id}: `ray job logs {job.job_id} --follow` shows its log; submitting the same again with --follow does, too")
    return 0


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
