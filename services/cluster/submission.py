"""Jobs on a running cluster: submit one verb with its configuration, follow its log, end with its exit code.

The configuration travels as one object in the run's own output, named after its content; the job reads it from there. So the cluster
installs and uploads nothing, and a submission that is repeated meets the one that is already running.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import ray.exceptions
from ray.job_submission import JobStatus, JobSubmissionClient

from sae.errors import InputError, StorageError, UserError
from sae.storage import Place, sha256_hex, to_json

POLL_SECONDS = 1.0
SILENCE_SECONDS = 120.0
"""How long the head may not answer before following a job gives up; the job itself goes on."""
STOP_WAIT_SECONDS = 15
"""From the SIGTERM of `ray job stop` to its SIGKILL. Ray waits 3 s, which is too short for the last state of a training."""
SUBMISSIONS = "submissions"
OUTPUT_KEY, CONFIG_KEY = "monosem_output", "monosem_config"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Submission:
    """A job on the cluster.

    Attributes:
        job_id: by which Ray knows it.
        is_new: False where the same work on the same output was running already.
    """

    job_id: str
    is_new: bool


def connect_jobs(address: str | None = None) -> JobSubmissionClient:
    """The job server of a cluster.

    Args:
        address: `http://HOST:8265`; None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or a cluster on this machine.

    Raises:
        InputError: nothing answers there, or the token is missing or wrong.
    """
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets its environment overrule an argument; a flag is meant
    shown = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "this machine"
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it tells of every connection that closes
    try:
        return JobSubmissionClient()
    except ray.exceptions.AuthenticationError:
        raise InputError(f"the cluster at {shown} refuses the token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)") from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"no job server answers at {shown}: {reason.rstrip('.')} (expected --address http://HOST:8265)") from None


def submit(client: JobSubmissionClient, verb: str, output: str, config: dict[str, Any], python: str = "python") -> Submission:
    """Start `VERB` on the cluster, or return the job that is already doing just that.

    Args:
        client: of `connect_jobs`.
        verb: of the command line.
        output: the run's directory, which every node must be able to reach.
        config: the resolved configuration.
        python: the interpreter on the cluster that has this package.

    Raises:
        UserError: another job is running on the same output.
    """
    data = to_json({"verb": verb, "config": config})
    digest = sha256_hex(data)[:16]
    for job in client.list_jobs():
        metadata = job.metadata or {}
        if metadata.get(OUTPUT_KEY) == output and not job.status.is_terminal():
            if metadata.get(CONFIG_KEY) == digest and job.submission_id:
                return Submission(job.submission_id, is_new=False)
            raise UserError(
                f"job {job.submission_id} with another verb or configuration is {job.status.lower()} on {output}: wait for it, stop it "
                f"(`ray job stop {job.submission_id}`), or choose another output"
            )
    key = f"{SUBMISSIONS}/{digest}.json"
    place = Place(output)
    place.put_json(key, config)
    entrypoint = shlex.join([python, "-m", "jobs", verb, "-c", place.path(key)])
    attempt = sum((job.metadata or {}).get(CONFIG_KEY) == digest for job in client.list_jobs())
    job_id = client.submit_job(
        entrypoint=entrypoint,
        submission_id=f"monosem-{verb}-{digest}-{attempt}",
        metadata={OUTPUT_KEY: output, CONFIG_KEY: digest},
        runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)}},
    )
    return Submission(job_id, is_new=True)


def follow(client: JobSubmissionClient, job_id: str, write: Callable[[str], object]) -> int:
    """Pass on the job's log until it ends, over interruptions of the connection; returns the exit code of its driver.

    Raises:
        StorageError: the head did not answer for `SILENCE_SECONDS`.
    """
    written = 0
    while True:
        written += asyncio.run(_tail(client, job_id, written, write))
        info = _patiently(lambda: client.get_job_info(job_id))
        if info.status.is_terminal():
            rest = _patiently(lambda: client.get_job_logs(job_id))[written:]
            write(rest)
            failed = 0 if info.status is JobStatus.SUCCEEDED else 1
            return info.driver_exit_code if info.driver_exit_code is not None and info.driver_exit_code >= 0 else failed
        time.sleep(POLL_SECONDS)


async def _tail(client: JobSubmissionClient, job_id: str, skip: int, write: Callable[[str], object]) -> int:
    """Write what the log holds beyond its first `skip` characters, until the connection ends; returns how many characters that were."""
    passed = 0
    chunks: AsyncIterator[str] = client.tail_job_logs(job_id)
    with contextlib.suppress(RuntimeError, aiohttp.ClientError, OSError):
        async for chunk in chunks:
            fresh = chunk[max(0, skip - passed) :]
            passed += len(chunk)
            write(fresh)
    return max(0, passed - skip)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask again while the head is away: it may be restarted during a job."""
    deadline = time.monotonic() + SILENCE_SECONDS
    while True:
        try:
            return ask()
        except (OSError, RuntimeError) as error:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"the cluster's head has not answered for {SILENCE_SECONDS:g} s ({type(error).__name__}): is it still there?"
                ) from None
            time.sleep(POLL_SECONDS)
