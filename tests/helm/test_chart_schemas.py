"""Every object the chart renders is one that Kubernetes, KubeRay and the Prometheus operator take, to the last key."""

import copy

import helm_python
import pytest
import yaml
from chart import CHART, CRDS, EXAMPLES, engine, example, of_kind, problems, render

ALL_VALUES = [pytest.param({}, id="defaults"), *(pytest.param(yaml.safe_load(path.read_text()), id=path.stem) for path in EXAMPLES)]
needs_crds = pytest.mark.skipif(
    not CRDS, reason="no CRDs of KubeRay: `make kuberay`, or set KUBERAY_CRDS to a directory with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml"
)

SIZES = {"resources": {"cpu": "1", "memory": "1Gi"}, "sharedMemory": "1Gi", "temporary": "1Gi"}
EXTRA = {"enabled": True, "minReplicas": 0, "maxReplicas": 1, "gpus": 0, "spot": True} | SIZES


@pytest.mark.parametrize("values", ALL_VALUES)
def test_strict_lint_finds_nothing(values):
    report = helm_python.lint(CHART, values, strict=True, namespace="research", kube_version="v1.37.0")
    assert (report["total_charts_linted"], report["messages"], report["errors"]) == (1, [], [])


@pytest.mark.parametrize("values", ALL_VALUES)
def test_core_objects_are_valid(values):
    objects = [each for each in render(values).values() if not each["apiVersion"].startswith("ray.io/")]
    assert objects
    assert [line for each in objects for line in problems(each)] == []


@needs_crds
@pytest.mark.parametrize("values", ALL_VALUES)
def test_ray_objects_are_valid(values):
    objects = [each for each in render(values).values() if each["apiVersion"].startswith("ray.io/")]
    assert objects
    assert [line for each in objects for line in problems(each)] == []


@needs_crds
def test_the_validation_of_ray_objects_can_fail():
    [cluster] = of_kind(render(), "RayCluster")
    broken = copy.deepcopy(cluster)
    group = broken["spec"]["workerGroupSpecs"][0]
    group["replcas"] = group.pop("replicas")
    del group["groupName"]
    group["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "8080"
    assert len(problems(broken)) == 3


def test_the_validation_of_core_objects_can_fail():
    [policy] = of_kind(render(), "NetworkPolicy")
    policy["spec"]["podSelectr"] = {}
    assert problems(policy)
    [rule] = of_kind(render(example("spot-fleet")), "PrometheusRule")
    rule["spec"]["groups"][0]["rules"][0]["fore"] = "5m"
    assert problems(rule)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_is_for(path):
    assert path.read_text().startswith("# ")


class TestValuesOutsideTheSchema:
    """What is wrong is said with the key and what was expected, before anything is made."""

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"groups": {"harvest": {"maxReplicas": "eight"}}}, "/groups/harvest/maxReplicas"),
            ({"groups": {"harvest": {"maxReplicas": 0}}}, "/groups/harvest/maxReplicas"),
            ({"groups": {"extra": {"enabled": True}}}, "/groups/extra"),
            ({"cluster": {"rayVersion": "latest"}}, "/cluster/rayVersion"),
            ({"jobs": {"a": {"verb": "dance"}}}, "/jobs/a/verb"),
            ({"jobs": {"a": {"config": "x.yaml"}}}, "/jobs/a"),
            ({"jobs": {"a": {"verb": "run", "config": "x.yaml; rm -rf /"}}}, "/jobs/a/config"),
            ({"auth": {"mode": "none"}}, "/auth/mode"),
            ({"metrics": {"jobPorts": [19464]}}, "/metrics/jobPorts"),
            ({"image": {"digest": "latest"}}, "/image/digest"),
            ({"colour": "red"}, "colour"),
            ({"browser": {"run": "s3://KEY:SECRET@bucket/run"}}, "/browser/run"),
            ({"objectStore": {"endpoint": "https://KEY:SECRET@store"}}, "/objectStore/endpoint"),
            ({"objectStore": {"accessKey": "AKIA"}}, "/objectStore"),
        ],
    )
    def test_is_refused_by_name(self, values, named):
        with pytest.raises(helm_python.HelmValuesError) as refused:
            engine().validate_schema(values)
        assert named in str(refused.value)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, r"env.AWS_SECRET_ACCESS_KEY: this looks like a secret"),
            ({"env": {"HF_TOKEN": "x"}}, r"env.HF_TOKEN: this looks like a secret"),
            ({"env": {"DATABASE": "postgres://me:pass@host"}}, r"env.DATABASE: this looks like a secret"),
            ({"jobs": {"a": {"verb": "run", "set": {"output": "s3://KEY:SECRET@bucket/run"}}}}, r"jobs.a: set holds a URL with a password"),
            ({"groups": {"head": EXTRA}}, r"groups.head: the chart has a part of that name already"),
            ({"groups": {"train": {"minReplicas": 5}}}, r"groups.train: minReplicas 5 is more than maxReplicas 1"),
            ({"jobs": {"a": {"verb": "run"}, "b": {"verb": "run"}}}, r"jobs.a and jobs.b run on one cluster and would both open port 9464"),
            ({"jobs": {"a": {"verb": "run", "metricsPort": 9500}}}, r"jobs.a: metricsPort 9500 is not among metrics.jobPorts"),
            ({"jobs": {"a": {"verb": "run"}}, "cluster": {"enabled": False}}, r"jobs.a: cluster.enabled is false"),
            ({"jobs": {"a" * 60: {"verb": "run"}}}, r"more than KubeRay's 47 characters"),
            ({"browser": {"enabled": True}}, r"browser.run is empty: say which run to show"),
            ({"priorityClass": {"create": True}}, r"priorityClass.name is empty"),
        ],
    )
    def test_what_only_the_templates_can_see_is_said_in_words(self, values, message):
        engine().validate_schema(values)
        with pytest.raises(helm_python.HelmError, match=message):
            render(values)
