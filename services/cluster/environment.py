"""Environment variables that Ray reads once, when it is first imported: to be set before."""

import os
import secrets


def prepare_ray_environment() -> None:
    """Give a local cluster a token of its own, quick health checks and workers of our own priority; whatever the user has set stays.

    Without this, Ray writes a token that everyone may read into the user's home. Ours lives and dies with this process.
    """
    chosen = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")
    if not any(name in os.environ for name in chosen):
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a default that will change
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # a report of the training worker otherwise takes two seconds
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")  # then training goes on with the nodes that are left; a minute otherwise
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less: our workers save their state anyway, and do not ask it
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "45")  # a stopped training worker is replaced then; ten minutes otherwise
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: on a laptop in use, workers would come last
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # Ray's dumps stacks on SIGTERM, and aborts
