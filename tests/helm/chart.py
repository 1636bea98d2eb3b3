"""The chart as the real Helm engine renders it, and the strict schemas its objects are held against."""

import json
import os
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
KUBERNETES = "1.37"
FETCHED = ROOT / ".tools/kuberay"  # by `make kuberay`
CRDS = os.environ.get("KUBERAY_CRDS") or (FETCHED if FETCHED.is_dir() else None)

# The kinds of the Prometheus operator (v0.93 line) as far as the chart uses them; their definitions are not published as a package.
# Rules are checked by promtool besides.
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alert", "expr"],
    "properties": {
        "alert": {"type": "string"},
        "expr": {"type": "string"},
        "for": {"type": "string", "pattern": r"^\d+[smh]$"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}  # fmt: skip
_GROUP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "interval": {"type": "string"}, "rules": {"type": "array", "items": _RULE}},
}
_ENDPOINT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"port": {"type": "string"}, "interval": {"type": "string", "pattern": r"^\d+(ms|s|m)$"}},
}
_SELECTOR = {"type": "object", "additionalProperties": False, "properties": {"matchLabels": _TEXTS}}
MONITORING = {
    "PrometheusRule": {"type": "object", "additionalProperties": False, "properties": {"groups": {"type": "array", "items": _GROUP}}},
    "PodMonitor": {
        "type": "object",
        "additionalProperties": False,
        "required": ["selector", "podMetricsEndpoints"],
        "properties": {"selector": _SELECTOR, "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT}},
    },
}


@cache
def engine():
    """Helm's own engine with the chart loaded."""
    import helm_python

    return helm_python.Chart.load(CHART)


def example(name):
    """The values of one of the chart's examples."""
    return yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())


def render(values=None, name="rel", **how):
    """All objects of a release, by kind and name."""
    chart, values = engine(), json.loads(json.dumps(values or {}))
    chart.validate_schema(values)
    manifests = chart.render(values, name=name, namespace="research", **how)
    loaded = (each for path, text in manifests.items() if path.endswith(".yaml") for each in yaml.load_all(text, yaml.CSafeLoader))
    objects = {}
    for each in filter(None, loaded):
        key = (each["kind"], each["metadata"]["name"])
        assert key not in objects, f"two objects are called {key}"
        objects[key] = each
    return objects


def rendered_text(values=None):
    """Everything a release sends, as text, notes included."""
    return "\n".join(engine().render(values or {}, name="rel", namespace="research").values())


def of_kind(objects, kind):
    return [each for (found, _), each in objects.items() if found == kind]


def pod_templates(objects):
    """Every pod of a release as `(component, pod template)`."""
    for each in objects.values():
        spec = each.get("spec", {})
        if each["kind"] == "Deployment":
            yield "browser", spec["template"]
        cluster = spec if each["kind"] == "RayCluster" else spec.get("rayClusterSpec")
        if cluster:
            yield "head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield group["groupName"], group["template"]


@cache
def ray_schema(kind):
    """The CRD's schema with every unlisted key forbidden."""
    path = Path(CRDS, f"ray.io_{kind.lower()}s.yaml")
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)
    [version] = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _strict(schema):
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) if key not in ("enum", "required", "default") else value for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return strict


def problems(each):
    """What the strict schema of an object's kind finds wrong with it; one line a finding."""
    kind = each["kind"]
    if each["apiVersion"].startswith("ray.io/"):
        found = ray_schema(kind).iter_errors(each)
    elif kind in MONITORING:
        found = jsonschema.Draft202012Validator(MONITORING[kind]).iter_errors(each["spec"])
    else:
        try:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            found = [error]
        else:
            found = []
    return [f"{kind} {'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]
