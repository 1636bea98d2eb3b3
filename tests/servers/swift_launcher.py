"""Runs one server of OpenStack Swift. For the interpreter of `.venv-swift`, not for ours: `python swift_launcher.py ROLE DIRECTORY`.

Swift looks for its configuration in /etc/swift unless it is told otherwise before anything of it is loaded.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import swift.common.utils as swift_utils

role, directory = sys.argv[1:]
if sys.platform == "linux":  # a test run that is killed stops no server: PR_SET_PDEATHSIG does
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
swift_utils.SWIFT_CONF_FILE = os.path.join(directory, "swift.conf")

if role == "rings":
    from swift.common.ring import RingBuilder

    for name, port in zip(("account", "container", "object"), Path(directory, "ports").read_text().split(), strict=True):
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        device = {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "d0", "weight": 1.0}
        builder.add_dev(device | {"replication_ip": "127.0.0.1", "replication_port": int(port)})
        builder.rebalance()
        builder.get_ring().save(os.path.join(directory, f"{name}.ring.gz"))
else:
    from swift.common.wsgi import run_wsgi

    sys.exit(run_wsgi(os.path.join(directory, f"{role}.conf"), f"{role}-server"))
