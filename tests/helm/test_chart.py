"""What a release does, behaviour by behaviour."""

import base64
import itertools
import json
import shlex

import pytest
import yaml
from chart import CHART, EXAMPLES, ROOT, example, of_kind, pod_templates, render, rendered_text

from jobs.commands import STAGES, VERBS
from services.browser.hosts import allowed_hosts

MINE = {
    "gpus": 0, "spot": False, "resources": {"cpu": "1", "memory": "1Gi"}, "sharedMemory": "1Gi", "temporary": "1Gi",
    "nodeSelector": {}, "tolerations": [], "affinity": {},
}  # fmt: skip
JOB = {"jobs": {"one": {"verb": "harvest", "config": "/opt/monosem/configs/quickstart.yaml"}}}


def cluster(values=None):
    [found] = of_kind(render(values), "RayCluster")
    return found["spec"]


def group(values, name):
    [found] = [each for each in cluster(values)["workerGroupSpecs"] if each["groupName"] == name]
    return found


def container(template):
    return template["spec"]["containers"][0]


class TestRayCluster:
    def test_the_harvest_group_scales_from_zero(self):
        harvest = group({}, "harvest")
        assert (harvest["minReplicas"], harvest["replicas"], harvest["maxReplicas"]) == (0, 0, 8)
        assert cluster()["enableInTreeAutoscaling"] is True
        assert cluster()["autoscalerOptions"]["version"] == "v2"

    def test_harvest_and_train_have_a_gpu_and_evaluation_has_none(self):
        limits = {name: container(template)["resources"]["limits"] for name, template in pod_templates(render())}
        assert limits["harvest"]["nvidia.com/gpu"] == 1
        assert limits["train"]["nvidia.com/gpu"] == 1
        assert "nvidia.com/gpu" not in limits["evaluate"] | limits["head"]

    def test_gpu_pods_tolerate_gpu_nodes_and_others_do_not(self):
        tolerates = {name: template["spec"].get("tolerations", []) for name, template in pod_templates(render())}
        gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        assert gpu in tolerates["harvest"]
        assert gpu not in tolerates["evaluate"]

    def test_the_head_does_no_work(self):
        assert cluster()["headGroupSpec"]["resources"] == {"CPU": "0"}

    def test_shared_memory_is_a_volume_of_the_stated_size(self):
        values = {"groups": {"train": {"sharedMemory": "48Gi"}}}
        pod = group(values, "train")["template"]["spec"]
        assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "48Gi"}} in pod["volumes"]
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]

    def test_a_node_that_falls_silent_is_noticed_well_within_thirty_seconds(self):
        for name, template in pod_templates(render()):
            environment = {each["name"]: each.get("value") for each in container(template)["env"]}
            looks = ("period_ms", "timeout_ms", "failure_threshold", "initial_delay_ms")
            period, timeout, threshold, delay = (int(environment[f"RAY_health_check_{key}"]) for key in looks)
            assert (period + timeout) * threshold + delay <= 20_000, name

    def test_a_token_guards_the_cluster_by_default(self):
        assert cluster()["authOptions"] == {"mode": "token"}
        assert cluster({"auth": {"existingSecret": "mine"}})["authOptions"] == {"mode": "token", "secretName": "mine"}
        assert cluster({"auth": {"mode": "disabled", "existingSecret": "mine"}})["authOptions"] == {"mode": "disabled"}

    def test_the_ray_version_is_the_one_that_is_installed(self):
        constraints = (ROOT / "constraints.txt").read_text().splitlines()
        assert f"ray=={cluster()['rayVersion']}" in constraints

    def test_nodes_are_chosen_by_labels_and_tolerations(self):
        values = {"groups": {"harvest": {"nodeSelector": {"pool": "spot"}, "tolerations": [{"key": "spot", "operator": "Exists"}]}}}
        pod = group(values, "harvest")["template"]["spec"]
        assert pod["nodeSelector"] == {"pool": "spot"}
        assert {"key": "spot", "operator": "Exists"} in pod["tolerations"]

    def test_every_group_labels_its_nodes_so_that_work_can_be_bound_to_it(self):
        groups = cluster({"groups": {"mine": {"enabled": True, "minReplicas": 0, "maxReplicas": 1} | MINE}})["workerGroupSpecs"]
        assert {each["groupName"]: each["labels"] for each in groups} == {
            name: {"monosem-group": name} for name in ("harvest", "train", "evaluate", "mine")
        }

    def test_a_group_that_is_switched_off_is_not_there(self):
        names = {each["groupName"] for each in cluster({"groups": {"train": {"enabled": False}}})["workerGroupSpecs"]}
        assert names == {"harvest", "evaluate"}

    def test_an_image_may_be_pinned_by_digest(self):
        digest = "sha256:" + "0" * 64
        for _, template in pod_templates(render({"image": {"repository": "registry/monosem", "digest": digest}})):
            assert container(template)["image"] == f"registry/monosem@{digest}"
        assert container(group({}, "harvest")["template"])["image"] == "monosem:0.1.0"


class TestDisruption:
    def test_spot_pods_may_be_evicted_and_end_quickly(self):
        pod = group({}, "harvest")["template"]
        assert pod["spec"]["terminationGracePeriodSeconds"] <= 30
        assert pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"

    def test_head_and_train_pods_are_kept_by_budgets_of_whole_numbers(self):
        budgets = {
            each["metadata"]["name"]: each["spec"] for each in of_kind(render({"groups": {"train": {"maxReplicas": 3}}}), "PodDisruptionBudget")
        }
        assert {name: spec["minAvailable"] for name, spec in budgets.items()} == {"rel-head": 1, "rel-train": 3}
        assert all("maxUnavailable" not in spec for spec in budgets.values())  # Kubernetes refuses it for pods of a RayCluster

    def test_budgets_select_the_pods_they_are_for(self):
        objects = render()
        labels = {name: template["metadata"]["labels"] for name, template in pod_templates(objects)}
        for budget in of_kind(objects, "PodDisruptionBudget"):
            wanted = budget["spec"]["selector"]["matchLabels"]
            matching = [name for name, found in labels.items() if wanted.items() <= found.items()]
            assert matching == [budget["metadata"]["name"].removeprefix("rel-")]

    def test_a_priority_class_is_used_where_it_is_named(self):
        objects = render({"priorityClass": {"create": True, "name": "research"}})
        assert of_kind(objects, "PriorityClass")[0]["value"] == 1000
        assert all(template["spec"]["priorityClassName"] == "research" for _, template in pod_templates(objects))
        assert "priorityClassName" not in group({}, "harvest")["template"]["spec"]


class TestSecurity:
    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_every_pod_meets_the_restricted_standard(self, path):
        seen = set()
        for name, template in pod_templates(render(yaml.safe_load(path.read_text()))):
            seen.add(name)
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
            assert all(set(volume) <= {"name", "emptyDir", "configMap", "secret", "projected"} for volume in pod["volumes"])
            for each in pod["containers"]:
                context = each["securityContext"]
                assert context["allowPrivilegeEscalation"] is False
                assert context["readOnlyRootFilesystem"] is True
                assert context["capabilities"] == {"drop": ["ALL"]}
                assert "/tmp" in {mount["mountPath"] for mount in each["volumeMounts"]}  # the only place it may write
        assert "head" in seen

    def test_the_autoscaler_is_held_to_the_same(self):
        assert cluster()["autoscalerOptions"]["securityContext"] == container(group({}, "harvest")["template"])["securityContext"]

    def test_no_secret_value_is_ever_rendered(self):
        planted = {"objectStore": {"existingSecret": "store-keys"}, "secretEnv": [{"name": "HF_TOKEN", "secret": "hub", "key": "token"}]}
        objects = render(planted | JOB | {"browser": {"enabled": True, "run": "s3://b/r"}})
        assert of_kind(objects, "Secret") == []
        for _, template in pod_templates(objects):
            for variable in container(template)["env"]:
                if any(word in variable["name"] for word in ("KEY", "SECRET", "TOKEN")):
                    assert set(variable) == {"name", "valueFrom"}
                    assert set(variable["valueFrom"]) == {"secretKeyRef"}

    def test_without_a_secret_the_identity_of_the_workload_counts(self):
        role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}
        objects = render({"serviceAccount": {"annotations": role}})
        assert objects["ServiceAccount", "rel"]["metadata"]["annotations"] == role
        for _, template in pod_templates(objects):
            assert template["spec"]["serviceAccountName"] == "rel"
            assert "AWS_ACCESS_KEY_ID" not in {each["name"] for each in container(template)["env"]}

    def test_only_the_head_may_speak_to_kubernetes(self):
        may = {name: template["spec"]["automountServiceAccountToken"] for name, template in pod_templates(render(example("spot-fleet")))}
        assert {name for name, allowed in may.items() if allowed} == {"head"}

    def test_the_browser_answers_to_its_service_its_ingress_and_what_is_configured(self):
        browser = {"enabled": True, "run": "s3://b/r", "allowedHosts": ["proxy.example"], "ingress": {"enabled": True, "host": "features.example"}}
        arguments = render({"browser": browser})["Deployment", "rel-browser"]["spec"]["template"]["spec"]["containers"][0]["args"]
        names = [after for option, after in itertools.pairwise(arguments) if option == "--allowed-host"]
        assert names == [
            *("rel-browser", "rel-browser.research", "rel-browser.research.svc", "rel-browser.research.svc.cluster.local"),
            *("features.example", "proxy.example"),
        ]
        assert allowed_hosts("0.0.0.0", names).answers_to("rel-browser.research:80")

    def test_the_browser_has_an_identity_of_its_own(self):
        objects = render(example("spot-fleet"))
        assert objects["ServiceAccount", "rel-browser"] != objects["ServiceAccount", "rel"]
        assert objects["Deployment", "rel-browser"]["spec"]["template"]["spec"]["serviceAccountName"] == "rel-browser"

    def test_an_ingress_is_never_there_unasked(self):
        assert of_kind(render({"browser": {"enabled": True, "run": "s3://b/r"}}), "Ingress") == []
        assert of_kind(render({"browser": {"enabled": True, "run": "s3://b/r"}}), "Service")[0]["spec"]["type"] == "ClusterIP"


class TestNetwork:
    def policy(self, values=None, name="rel-ray"):
        return render(values)["NetworkPolicy", name]["spec"]

    def test_ray_is_open_to_itself_the_operator_and_prometheus_alone(self):
        ours, submitters, scrapers = self.policy()["ingress"]
        assert "ports" not in ours
        assert [set(peer) for peer in ours["from"]] == [{"podSelector"}]
        assert [port["port"] for port in submitters["ports"]] == [8265]
        assert submitters["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}}}]
        assert [port["port"] for port in scrapers["ports"]] == [8080, 9464]

    def test_namespaces_of_clients_may_submit(self):
        named = [
            peer["namespaceSelector"]["matchLabels"] for peer in self.policy({"networkPolicy": {"clients": ["notebooks"]}})["ingress"][1]["from"]
        ]
        assert {"kubernetes.io/metadata.name": "notebooks"} in named

    def test_the_metadata_of_the_machine_is_out_of_reach_unless_asked_for(self):
        outside = [rule for rule in self.policy()["egress"] for peer in rule["to"] if "ipBlock" in peer]
        assert [rule["to"][0]["ipBlock"]["except"] for rule in outside] == [["169.254.0.0/16"]]
        asked = [
            peer["ipBlock"]["cidr"]
            for rule in self.policy({"networkPolicy": {"metadataServer": True}})["egress"]
            for peer in rule["to"]
            if "ipBlock" in peer
        ]
        assert "169.254.0.0/16" in asked

    def test_visitors_reach_the_browser_and_not_its_metrics(self):
        visitors, scrapers = self.policy({"browser": {"enabled": True, "run": "s3://b/r"}}, "rel-browser")["ingress"]
        assert visitors["ports"] == [{"port": 8080}]
        assert scrapers["ports"] == [{"port": 9464}]

    def test_the_policies_select_all_pods(self):
        objects = render(example("spot-fleet"))
        selectors = [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
        for name, template in pod_templates(objects):
            assert sum(wanted.items() <= template["metadata"]["labels"].items() for wanted in selectors) == 1, name


class TestJobs:
    def entrypoint(self, values):
        [job] = of_kind(render(values), "RayJob")
        return shlex.split(job["spec"]["entrypoint"])

    def test_a_job_is_a_verb_of_the_command_line(self):
        words = self.entrypoint(JOB)
        assert words[:6] == ["python", "-m", "jobs", "harvest", "-c", "/opt/monosem/configs/quickstart.yaml"]

    def test_every_stage_can_be_a_job(self):
        verbs = json.loads((CHART / "values.schema.json").read_text())["$defs"]["job"]["properties"]["verb"]["enum"]
        assert set(verbs) == set(STAGES) <= set(VERBS)

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_the_jobs_of_the_examples_are_configurations_that_load(self, path):
        from jobs.loading import load_config  # seconds of import that no other test here needs

        values = yaml.safe_load(path.read_text())
        words = self.entrypoint(values)
        file = words[words.index("-c") + 1].replace("/opt/monosem/configs", str(ROOT / "jobs/configs"))
        config = load_config(file, words[words.index("-c") + 2 :])
        [job] = values["jobs"].values()
        assert config.output == job["set"]["output"]
        assert (config.cluster.metrics_host, config.cluster.metrics_port) == ("0.0.0.0", 9464)
        assert config.harvest.num_workers == job["set"].get("harvest", {}).get("num_workers", config.harvest.num_workers)

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_where_there_are_several_groups_the_examples_say_which_one_does_what(self, path):
        from jobs.loading import load_config

        values = yaml.safe_load(path.read_text())
        groups = {each["groupName"]: each["template"] for each in cluster(values)["workerGroupSpecs"]}
        words = self.entrypoint(values)
        file = words[words.index("-c") + 1].replace("/opt/monosem/configs", str(ROOT / "jobs/configs"))
        config = load_config(file, words[words.index("-c") + 2 :])
        for stage in (config.harvest.pool, config.trainer, config.evaluation.pool, config.interpretation.pool):
            if len(groups) > 1:
                limits = container(groups[stage.labels["monosem-group"]])["resources"]["limits"]
                assert stage.num_gpus <= limits.get("nvidia.com/gpu", 0)

    def test_hostile_and_awkward_values_reach_the_job_as_they_are(self):
        text = 'it\'s "quoted" $(reboot) ; `x` \\ ü'
        settings = {"corpus": {"text": [text], "train_tokens": 8_200_000_000}, "output": "s3://b/r", "harvest": {"tokens_per_sequence": None}}
        words = self.entrypoint({"jobs": {"a": {"verb": "run", "set": settings}}})
        found = dict(word.split("=", 1) for word in words[4:])
        assert yaml.safe_load(found["corpus.text"]) == [text]
        assert yaml.safe_load(found["corpus.train_tokens"]) == 8_200_000_000
        assert yaml.safe_load(found["harvest.tokens_per_sequence"]) is None

    def test_a_job_runs_on_the_releases_cluster_unless_it_wants_its_own(self):
        [job] = of_kind(render(JOB), "RayJob")
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": "rel"}
        # KubeRay refuses these together with a cluster selector.
        assert not {"backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"} & set(job["spec"])

    def test_a_cluster_of_its_own_is_the_same_and_goes_with_the_job(self):
        values = {"jobs": {"one": JOB["jobs"]["one"] | {"ownCluster": True}}}
        [job] = of_kind(render(values), "RayJob")
        assert job["spec"]["shutdownAfterJobFinishes"] is True
        assert job["spec"]["backoffLimit"] == 2
        shared = cluster(values)
        assert job["spec"]["rayClusterSpec"] == {key: value for key, value in shared.items() if key != "upgradeStrategy"}


HARMLESS_KINDS = {"ConfigMap", "Deployment", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "Service", "ServiceAccount"}
HARMLESS_KINDS |= {"PodMonitor", "PrometheusRule", "RayCluster", "RayJob"}


class TestUpgrade:
    def test_an_upgrade_with_changed_values_leaves_the_object_store_untouched(self):
        before = example("spot-fleet")
        after = before | {"jobs": {}, "browser": {"enabled": False}, "groups": {"harvest": {"maxReplicas": 2}}}
        for values, how in ((before, {"is_install": True}), (after, {"is_upgrade": True, "revision": 2})):
            objects = render(values, **how)
            # Nothing that holds, makes or deletes data: no volume claim, no bucket, no job of Kubernetes' own.
            assert {kind for kind, _ in objects} <= HARMLESS_KINDS
            for each in objects.values():
                annotations = each["metadata"].get("annotations", {})
                assert not any(key.startswith("helm.sh/hook") for key in annotations), "a hook could run at an upgrade or an uninstall"
                assert "deletionStrategy" not in each.get("spec", {})
            words = [argument for job in of_kind(objects, "RayJob") for argument in shlex.split(job["spec"]["entrypoint"])]
            assert not {"delete", "clean", "--from-scratch"} & set(words)

    def test_names_and_selectors_do_not_depend_on_values_that_change(self):
        first, second = render(example("spot-fleet")), render(example("spot-fleet") | {"image": {"repository": "other", "tag": "9"}})
        assert set(first) == set(second)
        selector = ("Deployment", "rel-browser")
        assert first[selector]["spec"]["selector"] == second[selector]["spec"]["selector"]

    def test_rendering_twice_gives_the_same(self):
        assert rendered_text(example("spot-fleet")) == rendered_text(example("spot-fleet"))

    def test_a_long_release_name_is_cut_to_what_kuberay_takes(self):
        [found] = of_kind(render(name="a" * 53), "RayCluster")
        assert len(found["metadata"]["name"]) <= 40


class TestMonitoring:
    def test_nothing_of_the_prometheus_operator_unless_asked(self):
        assert not {kind for kind, _ in render()} & {"PodMonitor", "PrometheusRule", "ConfigMap"}

    def test_monitors_name_ports_that_their_pods_have(self):
        objects = render(example("spot-fleet"))
        pods = [(template["metadata"]["labels"], {port["name"] for port in container(template)["ports"]}) for _, template in pod_templates(objects)]
        for monitor in of_kind(objects, "PodMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"]
            ports = set().union(*(found for labels, found in pods if wanted.items() <= labels.items()))
            assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports

    def test_the_rules_are_the_file_that_promtool_tests(self):
        [rule] = of_kind(render(example("spot-fleet")), "PrometheusRule")
        assert rule["spec"] == yaml.safe_load((CHART / "rules/monosem.yaml").read_text())

    def test_the_dashboards_are_the_generated_files(self):
        found = {name: json.loads(text) for each in of_kind(render(example("spot-fleet")), "ConfigMap") for name, text in each["data"].items()}
        assert found == {path.name: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")}
        assert len(found) == 3
        for each in of_kind(render(example("spot-fleet")), "ConfigMap"):
            assert each["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_icon_is_a_drawing():
    icon = yaml.safe_load((CHART / "Chart.yaml").read_text())["icon"]
    assert base64.b64decode(icon.split(",", 1)[1]).startswith(b"<svg")


class TestMonitorsThatNoPrometheusWouldSelect:
    """kube-prometheus-stack selects monitors and rules by a label, and says nothing of those without it."""

    @pytest.mark.parametrize("kind", ["podMonitor", "rules"])
    def test_the_notes_warn_of_one_without_a_label(self, kind):
        assert "WARNING: metrics.podMonitor.labels or metrics.rules.labels is empty" in rendered_text({"metrics": {kind: {"enabled": True}}})

    def test_no_word_where_the_label_is_set_or_nothing_is_asked_for(self):
        labelled = {"enabled": True, "labels": {"release": "prometheus"}}
        for values in ({}, {"metrics": {"podMonitor": labelled, "rules": labelled}}):
            assert "WARNING" not in rendered_text(values)

    def test_the_example_that_enables_them_sets_their_labels(self):
        found = [each for name in ("cpu-only", "one-gpu", "spot-fleet") for each in example(name).get("metrics", {}).items()]
        enabled = [each for name, each in found if name in ("podMonitor", "rules") and each["enabled"]]
        assert enabled
        assert all(each["labels"] for each in enabled)
