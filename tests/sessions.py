"""A session in this process that nobody watches."""

from sae.execution import InProcess
from services.monitoring.board import LocalMonitor
from services.session import Session

HERE = Session("local", InProcess(), LocalMonitor(port=None), {"cpus": 2.0, "gpus": 0.0, "nodes": 1})
