"""The hosts of the chaos are what they claim to be."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos.hosts import GATEWAY, Network, missing

SERVER = "import socket; server = socket.create_server(('', 8000))\nwhile True: server.accept()[0].sendall(b'here')"
CALL = "import sys, socket; sys.exit(socket.create_connection((sys.argv[1], 8000), timeout=1).recv(4) != b'here')"


@pytest.fixture
def network():
    if reason := missing():
        pytest.skip(reason)
    with Network() as network:
        yield network


def answers(host, address, tmp_path, within=5.0) -> bool:
    """Whether a host reaches the server of another."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with open(tmp_path / "call.log", "wb") as log:
            if host.start([sys.executable, "-c", CALL, address], os.environ, log, tmp_path).wait(30) == 0:
                return True
        time.sleep(0.1)
    return False


def test_a_host_has_its_own_name_processes_and_network_and_a_cable_can_be_pulled(network, tmp_path):
    server, client = network.add(), network.add()
    with open(tmp_path / "server.log", "wb") as log:
        process = server.start([sys.executable, "-c", SERVER], os.environ, log, tmp_path)
    assert answers(client, server.address, tmp_path)
    assert [one.cmdline()[2] for one in server.processes() if one.cmdline()[:1] == [sys.executable]] == [SERVER]
    with open(tmp_path / "name", "wb") as name:
        server.start(["hostname"], os.environ, name, tmp_path).wait(10)
    assert (tmp_path / "name").read_text().strip() == server.name

    server.unplug()
    assert not answers(client, server.address, tmp_path, within=0.5)
    assert process.poll() is None
    server.plug_in()
    assert answers(client, server.address, tmp_path)
    server.lose_power()
    assert process.wait(5) != 0
    assert server.processes() == []


def test_a_socket_of_this_process_can_be_reached_by_hosts(network, tmp_path):
    host = network.add()
    with network.listen() as listener, open(tmp_path / "log", "wb") as log:
        listener.settimeout(10)
        host.start(
            [sys.executable, "-c", f"import socket; socket.create_connection(('{GATEWAY}', {listener.getsockname()[1]}))"], os.environ, log, tmp_path
        )
        connection, (address, _) = listener.accept()
        connection.close()
    assert address == host.address


def test_nothing_is_left_when_the_process_that_made_the_hosts_is_killed(network):
    script = "from tests.chaos.hosts import Network; n = Network(); print(n.add()._first, flush=True); input()"
    maker = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first = int(maker.stdout.readline())
    assert os.path.exists(f"/proc/{first}")
    maker.kill()
    maker.communicate(timeout=10)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{first}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{first}")


def test_the_end_of_a_command_that_was_stopped_for_a_while_is_seen(network, tmp_path):
    host = network.add(tmp_path)
    with open(tmp_path / "log", "wb") as log:
        command = host.start(["sleep", "100"], os.environ, log, tmp_path)
    (sleeping,) = wait_for(lambda: [process for process in host.processes() if process.cmdline()[-1:] == ["100"]])
    sleeping.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    sleeping.send_signal(signal.SIGCONT)
    sleeping.kill()
    assert wait_for(command.poll) == 128 + signal.SIGKILL or command.poll() == -signal.SIGKILL


def wait_for(look, seconds=5.0):
    """What `look` gives, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
