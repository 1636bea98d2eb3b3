"""Where a run works: in this process or on Ray, and where it may be watched."""

from typing import Literal

from pydantic import Field, PositiveInt

from sae.config import Config, Location, Name


class ClusterConfig(Config):
    """Where Ray runs, and where it may be watched."""

    executor: Literal["auto", "local", "ray"] = Field(
        "auto", description="who does the work: local: this process alone; ray: a Ray cluster; auto: ray where it helps (the log says why)"
    )
    address: Location | None = Field(None, description="address of a running cluster; null takes RAY_ADDRESS, or starts a local one")
    num_cpus: PositiveInt | None = Field(None, le=4096, description="CPUs of a local cluster; null takes all of the machine")
    object_store_bytes: PositiveInt = Field(512 * 2**20, ge=80 * 2**20, le=2**44, description="bytes of shared memory of a local cluster")
    metrics_host: Name = Field("127.0.0.1", description="address on which /metrics listens")
    metrics_port: int | None = Field(0, ge=0, le=65535, description="TCP port of /metrics; 0 takes a free one, null opens none")
    worker_logs: bool = Field(False, description="print the workers' own output, too")
