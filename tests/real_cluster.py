"""A Ray cluster as an administrator starts it: `ray start` for a head with its job server and for each further node, one process tree each."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
START_SECONDS = 60


class RealCluster:
    """A head and further nodes on this machine, each with a temporary directory of its own; a token guards them.

    Attributes:
        address: of the job server.
        environment: what a process needs to be let in.
    """

    def __init__(self, head_cpus: int = 1, token: str = "t0ken" * 8) -> None:
        self._directory = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short: Ray's sockets lie below it
        self._processes: list[subprocess.Popen] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_health_check_initial_delay_ms": "1000",
        }
        self._gcs, dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        self._start(
            "--head", f"--port={self._gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--num-cpus={head_cpus}"
        )
        self._wait_for_job_server(token)

    def add_node(self, num_cpus: int = 1) -> subprocess.Popen:
        """A further node; returns the process whose group it is."""
        return self._start(f"--address=127.0.0.1:{self._gcs}", f"--num-cpus={num_cpus}")

    def kill(self, node: subprocess.Popen) -> None:
        """As if the machine lost its power: every process of the node at once."""
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        """End whatever still runs, the head last."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, *arguments: str) -> subprocess.Popen:
        directory = Path(self._directory, str(len(self._processes)))
        ports = {name: free_port() for name in ("dashboard-agent-listen-port", "metrics-export-port")}
        command = [RAY, "start", *arguments, "--block", "--object-store-memory=100000000", "--disable-usage-stats"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        command += [f"--temp-dir={directory}"] if "--head" in arguments else []
        log = open(f"{directory}.log", "wb")  # noqa: SIM115 - it is the process's for as long as that lives
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True, cwd=self._directory)
        log.close()
        self._processes.append(process)
        return process

    def _wait_for_job_server(self, token: str) -> None:
        request = urllib.request.Request(f"{self.address}/api/version", headers={"Authorization": f"Bearer {token}"})
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline or self._processes[0].poll() is not None:
                    self.stop()
                    raise RuntimeError(f"the head did not start: {Path(self._directory, '0.log').read_text()[-2000:]}") from None
                time.sleep(0.3)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
