"""What the chart makes of its values."""

import pytest
import yaml
from generated import workspace_version
from helm import CHART, NAMESPACE, helm, render, template

EXAMPLE = {
    "enabled": True,
    "bucket": {"endpoint": "http://minio.s3:9000", "name": "logs", "accessKeyId": "id", "secretAccessKey": "secret"},
    "clickhouse": {"url": "http://clickhouse.db:8123"},
}
VARIANTS = {
    "as it comes": {},
    "namespaced": {"watchNamespaces": ["logging", "audit"]},
    "without crds": {"crds": {"install": False}},
    "without rights": {"rbac": {"create": False, "aggregate": False}, "serviceAccount": {"create": False, "name": "x"}},
    "pod monitor": {"metrics": {"monitor": {"kind": "PodMonitor", "labels": {"release": "prometheus"}}}},
    "service monitor": {"metrics": {"monitor": {"kind": "ServiceMonitor"}}},
    "example": {"example": EXAMPLE},
    "everything": {
        "image": {"repository": "registry.example.com:5000/spillway", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "pipelineImage": "registry.example.com:5000/spillway:1",
        "useOwnCredentials": True,
        "cleanupTimeout": "1h",
        "stsEndpoint": "https://minio.storage:9000",
        "rbac": {"tokenServiceAccounts": ["logs-bucket"]},
        "serviceAccount": {"name": "operator", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
        "replicas": 1,
        "nameOverride": "logs",
        "log": {"format": "text", "filter": "debug"},
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "env": [{"name": "AWS_REGION", "value": "eu-central-1"}],
        "envFrom": [{"secretRef": {"name": "proxy"}}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "infra", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [
            {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "egress": [{}]},
    },
}


@pytest.fixture(params=VARIANTS, scope="module")
def rendered(request):
    return render(VARIANTS[request.param])


@pytest.mark.parametrize("variant", VARIANTS)
def test_lint_has_nothing_to_say(variant):
    values = yaml.safe_dump(VARIANTS[variant])
    done = helm("lint", "--strict", CHART, "--values", "-", input=values)
    assert done.returncode == 0 and "[WARNING]" not in done.stdout, done.stdout + done.stderr


def test_the_pods_pass_the_restricted_level(rendered):
    pod, container = rendered.pod, rendered.container
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes"} & pod.keys()
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_objects_that_belong_together_find_each_other(rendered):
    deployment = rendered.one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [o["spec"]["selector"]["matchLabels"] for o in rendered.of("PodDisruptionBudget")]
    selectors += [o["spec"]["podSelector"]["matchLabels"] for o in rendered.of("NetworkPolicy")]
    selectors += [c["labelSelector"]["matchLabels"] for c in rendered.pod.get("topologySpreadConstraints", [])]
    terms = rendered.pod["affinity"]["podAntiAffinity"].get("preferredDuringSchedulingIgnoredDuringExecution", [])
    selectors += [term["podAffinityTerm"]["labelSelector"]["matchLabels"] for term in terms]
    assert len(selectors) > 2
    for selector in selectors:
        assert selector and selector.items() <= labels.items()
    account = rendered.pod["serviceAccountName"]
    for binding in rendered.of("RoleBinding") + rendered.of("ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]


def test_every_object_has_a_namespace_or_is_cluster_wide(rendered):
    wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    assert {o["kind"] for o in rendered.objects if "namespace" not in o["metadata"]} <= wide


def test_the_selector_of_the_operator_never_finds_a_pod_of_a_pipeline():
    # These carry `app.kubernetes.io/name: spillway`, and the pipeline's name as the instance.
    labels = render().one("Deployment")["spec"]["selector"]["matchLabels"]
    assert labels["app.kubernetes.io/name"] != "spillway"


def test_the_arguments_say_what_the_values_say():
    assert render().container["args"] == [
        f"--image=ghcr.io/spillway-dev/spillway:{workspace_version()}",
        "--cleanup-timeout=10m",
        "--metrics-addr=0.0.0.0:9092",
        "--lease-name=spillway-operator",
        "--log=json",
    ]
    everything = render({**VARIANTS["everything"], "watchNamespaces": ["a", "b"]})
    assert everything.container["args"] == [
        "--image=registry.example.com:5000/spillway:1",
        "--watch-namespace=a",
        "--watch-namespace=b",
        "--use-own-credentials",
        "--cleanup-timeout=1h",
        "--sts-endpoint=https://minio.storage:9000",
        "--metrics-addr=0.0.0.0:9092",
        "--lease-name=logs-operator",
        "--log=text",
    ]
    assert everything.container["image"] == "registry.example.com:5000/spillway@sha256:" + "0" * 64


def test_the_resource_is_left_out_on_request_and_kept_otherwise():
    assert "CustomResourceDefinition" not in render({"crds": {"install": False}}).kinds
    assert render().one("CustomResourceDefinition")["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_one_pod_is_enough_and_does_not_hold_up_a_drain():
    budget = render({"replicas": 1}).one("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in budget["spec"]


def test_labels_of_users_do_not_replace_those_that_select():
    template = render({"podLabels": {"team": "logs"}}).one("Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "logs"
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "spillway-operator"


def test_a_monitor_scrapes_the_port_that_the_pods_have():
    for kind, endpoints in (("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")):
        made = render({"metrics": {"port": 9999, "monitor": {"kind": kind, "labels": {"release": "p"}}}})
        monitor = made.one(kind)
        assert monitor["metadata"]["labels"]["release"] == "p"
        assert [e["port"] for e in monitor["spec"][endpoints]] == ["metrics"]
        assert made.container["ports"] == [{"name": "metrics", "containerPort": 9999}]
    service = made.one("Service")
    assert service["spec"]["ports"][0]["port"] == 9999
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert not {"PodMonitor", "ServiceMonitor", "Service"} & render().kinds


def test_the_network_policy_limits_what_is_asked_to_be_limited():
    assert render().one("NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]
    limited = render(VARIANTS["everything"]).one("NetworkPolicy")["spec"]
    assert limited["policyTypes"] == ["Ingress", "Egress"]
    assert limited["egress"] == [{}]
    assert limited["ingress"][0]["from"] == [{"namespaceSelector": {}}]
    assert "NetworkPolicy" not in render({"networkPolicy": {"enabled": False}}).kinds


def test_the_example_is_made_by_a_hook_that_deletes_nothing():
    objects = [o for o in render({"example": EXAMPLE}).objects if o["metadata"].get("annotations", {}).get("helm.sh/hook")]
    assert [o["kind"] for o in objects].count("LogPipeline") == 1
    for o in objects:
        notes = o["metadata"]["annotations"]
        assert notes["helm.sh/hook"] == "post-install,post-upgrade"
        # Without this the default holds: delete what is there and create it anew, at every upgrade.
        assert notes["helm.sh/hook-delete-policy"] == "hook-failed"
    weights = {o["kind"]: int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in objects}
    assert weights["Secret"] < weights["LogPipeline"]


def test_the_example_names_the_secrets_that_come_with_it():
    made = render({"example": {**EXAMPLE, "name": "first", "apiKey": "k"}, "watchNamespaces": ["logging"]})
    pipeline = made.one("LogPipeline", "first")
    assert pipeline["metadata"]["namespace"] == "logging"
    assert made.one("Secret", pipeline["spec"]["storage"]["s3"]["credentialsSecretRef"]["name"])["stringData"] == {
        "access_key_id": "id",
        "secret_access_key": "secret",
    }
    assert made.one("Secret", pipeline["spec"]["clickhouse"]["credentialsSecretRef"]["name"])["stringData"] == {
        "username": "default",
        "password": "",
    }
    (tenant,) = pipeline["spec"]["tenants"]
    assert made.one("Secret", tenant["apiKeysSecretRef"]["name"])["stringData"] == {"key": "k"}


def test_the_example_has_an_api_key_that_nobody_can_know():
    keys = {render({"example": EXAMPLE}).one("Secret", "example-tenant")["stringData"]["key"] for _ in range(2)}
    assert len(keys) == 2 and all(len(key) == 40 for key in keys)


def test_an_older_cluster_is_refused():
    done = template({}, "--kube-version", "1.30.0")
    assert "requires kubeVersion" in done.stderr
