"""What comes from outside is data: nothing that is read is run, nothing listens to others unasked, no secret is ever written."""

import ast
import inspect
from pathlib import Path

import pytest

from jobs.parsing import build_parser
from services.browser.server import Listening
from services.cluster.config import ClusterConfig
from services.monitoring.board import MetricsBoard
from services.monitoring.monitor import RunMonitor

ROOT = Path(__file__).parents[1]
TREES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text()) for package in ("sae", "services", "jobs") for path in (ROOT / package).rglob("*.py")
}
RUNS_WHAT_IT_READS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "ray.cloudpickle.loads", "dill.load", "dill.loads"),
    *("joblib.load", "marshal.loads", "shelve.open", "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec", "os.system", "os.popen"),
}


def calls():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path}:{node.lineno}", ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_nothing_that_is_read_can_run():
    assert [(where, name) for where, name, _ in calls() if name in RUNS_WHAT_IT_READS] == []


@pytest.mark.parametrize(
    ("function", "option", "safe"),
    [("torch.load", "weights_only", "True"), ("np.load", "allow_pickle", "False"), ("numpy.load", "allow_pickle", "False")],
)
def test_what_could_unpickle_is_told_not_to(function, option, safe):
    assert [where for where, name, options in calls() if name == function and options.get(option) != safe] == []


def test_no_code_comes_with_a_model_or_a_data_set():
    asked = [where for where, _, options in calls() if options.get("trust_remote_code", "False") != "False"]
    assert asked == []


def test_nothing_is_run_by_a_shell():
    assert [where for where, _, options in calls() if options.get("shell", "False") != "False"] == []


def test_whatever_listens_listens_on_loopback_unless_it_is_told_otherwise():
    serve = next(action for action in build_parser()._subparsers._group_actions[0].choices["serve"]._actions if action.dest == "host")
    hosts = {
        "metrics": ClusterConfig().metrics_host,
        "board": inspect.signature(MetricsBoard).parameters["host"].default,
        "monitor": inspect.signature(RunMonitor.start).parameters["host"].default,
        "browser": Listening().host,
        "serve": serve.default,
    }
    assert set(hosts.values()) == {"127.0.0.1"}, hosts
