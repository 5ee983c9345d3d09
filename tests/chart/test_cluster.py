"""The chart and the plain YAML on a real API server."""

import json
import shutil

import pytest
import yaml
from cluster import wait
from helm import CHART, ROOT

OPERATOR = "system:serviceaccount:spillway-system:spillway-operator"
EXAMPLE = (
    "--set=example.enabled=true,example.bucket.name=logs,example.bucket.accessKeyId=a,example.bucket.secretAccessKey=b",
    "--set=example.clickhouse.url=http://clickhouse.db:8123",
)
SCOPES = {"cluster": [], "namespaced": ["--set=watchNamespaces={logging}"]}


def pipeline(name="logs", namespace="logging"):
    return json.dumps(
        {
            "apiVersion": "spillway.dev/v1alpha1",
            "kind": "LogPipeline",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"tenants": [{"name": "a", "projects": ["a"], "apiKeysSecretRef": {"name": "a"}}]},
        }
    )


def versions(cluster, *kinds):
    found = cluster.get(",".join(kinds), "--all-namespaces", "-l", "app.kubernetes.io/part-of=spillway")["items"]
    assert found
    return {(o["kind"], o["metadata"]["name"]): o["metadata"]["resourceVersion"] for o in found}


def test_an_upgrade_without_a_change_changes_nothing(cluster):
    kinds = "deployment,clusterrole,clusterrolebinding,role,rolebinding,pdb,networkpolicy,serviceaccount,crd".split(",")
    cluster.install()
    before = versions(cluster, *kinds)
    assert {kind for kind, _ in before} >= {"Deployment", "CustomResourceDefinition", "PodDisruptionBudget"}
    cluster.install()
    assert versions(cluster, *kinds) == before


def test_an_upgrade_brings_the_new_fields_of_the_resource(cluster, tmp_path):
    older = tmp_path / "chart"
    shutil.copytree(CHART, older)
    file = older / "files/logpipelines.yaml"
    crd = yaml.safe_load(file.read_text())
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["deletionPolicy"]
    file.write_text(yaml.safe_dump(crd, sort_keys=False))

    def fields():
        found = cluster.get("crd", "logpipelines.spillway.dev")["spec"]["versions"][0]
        return found["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]

    cluster.install(chart=older)
    assert "deletionPolicy" not in fields()
    cluster.install()
    assert "deletionPolicy" in fields()


def test_an_uninstall_keeps_every_pipeline_and_an_install_takes_them_up_again(cluster):
    cluster.namespace("logging")
    cluster.install()
    cluster.kubectl("apply", "-f", "-", input=pipeline())
    uid = cluster.get("logpipeline", "logs", "-n", "logging")["metadata"]["uid"]
    said = cluster.helm("uninstall", "spillway", "--namespace", "spillway-system")
    assert "kept" in said and "logpipelines.spillway.dev" in said
    assert not cluster.there("deployment", "-n", "spillway-system")
    cluster.install()
    assert cluster.get("logpipeline", "logs", "-n", "logging")["metadata"]["uid"] == uid


def test_a_resource_that_came_otherwise_is_taken_over_on_request(cluster):
    cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds/logpipelines.yaml")
    place = ("install", "other", CHART, "--namespace", "spillway-system", "--create-namespace")
    assert "invalid ownership metadata" in cluster.try_helm(*place).stderr
    cluster.helm(*place, "--take-ownership")
    assert "helm.sh/resource-policy" in cluster.get("crd", "logpipelines.spillway.dev")["metadata"]["annotations"]


def test_giving_the_resource_out_of_the_releases_hands_deletes_no_pipeline(cluster):
    cluster.namespace("logging")
    cluster.install()
    cluster.kubectl("apply", "-f", "-", input=pipeline())
    cluster.install("--set=crds.install=false")
    assert cluster.there("logpipeline", "logs", "-n", "logging")


def test_two_operators_for_all_namespaces_can_not_be_installed(cluster):
    cluster.install()
    place = ("install", "spillway", CHART, "--namespace", "else", "--create-namespace", "--set=crds.install=false")
    assert "invalid ownership metadata" in cluster.try_helm(*place).stderr


def test_the_example_is_created_once_and_outlives_upgrades_and_the_release(cluster):
    cluster.install()
    cluster.install(*EXAMPLE)
    first = cluster.get("logpipeline", "example", "-n", "spillway-system")
    key = cluster.get("secret", "example-tenant", "-n", "spillway-system")
    cluster.install(*EXAMPLE, "--set=replicas=1")
    cluster.helm("uninstall", "spillway", "--namespace", "spillway-system")
    cluster.install(*EXAMPLE)
    assert cluster.get("logpipeline", "example", "-n", "spillway-system")["metadata"] == first["metadata"]
    assert cluster.get("secret", "example-tenant", "-n", "spillway-system") == key


@pytest.mark.parametrize("scope", SCOPES)
def test_the_pods_are_admitted_at_the_restricted_level(cluster, scope):
    cluster.namespace("logging")
    cluster.namespace("spillway-system", **{"pod-security.kubernetes.io/enforce": "restricted"})
    cluster.install(*SCOPES[scope])
    template = cluster.get("deployment", "spillway-operator", "-n", "spillway-system")["spec"]["template"]
    template["metadata"].update(name="pod", namespace="spillway-system")
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", **template})
    cluster.kubectl("create", "-f", "-", "--dry-run=server", input=pod)


# What it has to do, and what somebody who took it over must not be able to do.
ALLOWED = [
    ("watch", "spillway.dev", "logpipelines"),
    ("patch", "spillway.dev", "logpipelines"),
    ("patch", "spillway.dev", "logpipelines/status"),
    ("create", "apps", "deployments"),
    ("patch", "apps", "deployments"),
    ("delete", "autoscaling", "horizontalpodautoscalers"),
    ("get", "", "secrets"),
    ("patch", "", "pods"),
    ("create", "coordination.k8s.io", "leases"),
    ("create", "events.k8s.io", "events"),
]
DENIED = [
    ("create", "spillway.dev", "logpipelines"),
    ("update", "spillway.dev", "logpipelines"),
    ("delete", "spillway.dev", "logpipelines"),
    ("delete", "apps", "deployments"),
    ("delete", "coordination.k8s.io", "leases"),
    ("delete", "", "pods"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("get", "", "pods/log"),
    ("create", "", "pods/eviction"),
    ("create", "", "serviceaccounts/token", "any"),
    ("delete", "", "namespaces"),
    ("get", "", "nodes"),
    ("deletecollection", "", "secrets"),
    ("get", "", "persistentvolumeclaims"),
    ("create", "batch", "jobs"),
    ("create", "apps", "daemonsets"),
    ("delete", "apps", "replicasets"),
    ("bind", "rbac.authorization.k8s.io", "roles"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("impersonate", "", "users"),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
    ("delete", "apiextensions.k8s.io", "customresourcedefinitions"),
]


def asked(questions, namespace):
    return [(verb, group, resource, namespace, *name) for verb, group, resource, *name in questions]


@pytest.mark.parametrize("scope", SCOPES)
def test_the_operator_may_do_its_work_and_no_more(cluster, scope):
    cluster.namespace("logging")
    cluster.install(*SCOPES[scope], "--set=rbac.tokenServiceAccounts={bucket}")
    allowed = ALLOWED + [("create", "", "serviceaccounts/token", "bucket")]
    assert dict(zip(allowed, cluster.may(OPERATOR, asked(allowed, "logging")))) == dict.fromkeys(allowed, True)
    assert dict(zip(DENIED, cluster.may(OPERATOR, asked(DENIED, "logging")))) == dict.fromkeys(DENIED, False)


def test_in_namespaced_scope_it_may_nothing_elsewhere(cluster):
    cluster.namespace("logging")
    cluster.namespace("else")
    cluster.install(*SCOPES["namespaced"])
    for namespace in ("else", "kube-system", ""):
        assert not any(cluster.may(OPERATOR, asked(ALLOWED, namespace))), namespace
    # Its own namespace, which it doesn't watch: the Lease, by its name.
    lease = ("coordination.k8s.io", "leases", "spillway-system")
    questions = [("create", *lease), ("update", *lease, "spillway-operator"), ("update", *lease, "another")]
    assert cluster.may(OPERATOR, questions) == [True, True, False]
    assert not any(cluster.may(OPERATOR, asked([("get", "", "secrets")], "spillway-system")))


def role(verbs, **limits):
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs, **limits}
    named = {"name": "logs-syncer", "namespace": "logging"}
    return json.dumps({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": named, "rules": [rule]})


def binding(of):
    return json.dumps(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "logs-syncer", "namespace": "logging"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", **of},
            "subjects": [{"kind": "ServiceAccount", "name": "logs-syncer", "namespace": "logging"}],
        }
    )


@pytest.mark.parametrize("scope", SCOPES)
def test_the_operator_can_hand_on_the_syncers_lease_and_nothing_else(cluster, scope):
    cluster.namespace("logging")
    cluster.install(*SCOPES[scope])
    apply = ("apply", "--server-side", "--as", OPERATOR, "-f", "-")
    refused = cluster.refuses(*apply, input=role(["deletecollection"]))
    assert "attempting to grant RBAC permissions not currently held" in refused
    cluster.kubectl(*apply, input=role(["get", "update"], resourceNames=["logs-syncer"]))
    refused = cluster.refuses(*apply, input=binding({"kind": "ClusterRole", "name": "cluster-admin"}))
    assert "attempting to grant RBAC permissions not currently held" in refused
    cluster.kubectl(*apply, input=binding({"kind": "Role", "name": "logs-syncer"}))


def test_the_operator_may_own_objects_where_that_is_enforced(cluster):
    cluster.namespace("logging")
    cluster.install()
    cluster.kubectl("apply", "-f", "-", input=pipeline())
    uid = cluster.get("logpipeline", "logs", "-n", "logging")["metadata"]["uid"]
    owner = {"apiVersion": "spillway.dev/v1alpha1", "kind": "LogPipeline", "name": "logs", "uid": uid, "controller": True}
    owned = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "logs-syncer", "namespace": "logging", "ownerReferences": [owner]},
    }
    for labels in ({}, {"a": "b"}):
        owned["metadata"]["labels"] = labels
        cluster.kubectl("apply", "--server-side", "--as", OPERATOR, "-f", "-", input=json.dumps(owned))
    # Blocking the owner's deletion would ask for a right on its finalizers; nothing here needs to block it.
    owner["blockOwnerDeletion"] = True
    owned["metadata"]["name"] = "another"
    refused = cluster.refuses("apply", "--server-side", "--as", OPERATOR, "-f", "-", input=json.dumps(owned))
    assert "cannot set blockOwnerDeletion" in refused


def test_an_administrator_of_a_namespace_needs_one_more_right_to_install_for_it(cluster):
    cluster.namespace("logging")
    cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds/logpipelines.yaml")
    cluster.kubectl("create", "rolebinding", "alice", "--clusterrole=admin", "--user=alice", "-n", "logging")
    values = "--set=watchNamespaces={logging},crds.install=false,rbac.aggregate=false"
    place = ("upgrade", "--install", "spillway", CHART, "--namespace=logging", values, "--kube-as-user=alice")
    assert "attempting to grant RBAC permissions not currently held" in cluster.try_helm(*place).stderr
    hands_on = ("--verb=escalate,bind", "--resource=roles.rbac.authorization.k8s.io", "-n", "logging")
    cluster.kubectl("create", "role", "hands-on", *hands_on)
    cluster.kubectl("create", "rolebinding", "hands-on", "--role=hands-on", "--user=alice", "-n", "logging")
    cluster.helm(*place)


def test_viewers_and_editors_of_a_namespace_get_its_pipelines(cluster):
    cluster.namespace("logging")
    cluster.install()
    for user in ("view", "edit", "admin"):
        cluster.kubectl("create", "rolebinding", user, f"--clusterrole={user}", f"--user={user}", "-n", "logging")
    questions = [
        ("list", "spillway.dev", "logpipelines", "logging"),
        ("create", "spillway.dev", "logpipelines", "logging"),
        ("delete", "spillway.dev", "logpipelines", "logging"),
        ("patch", "spillway.dev", "logpipelines/scale", "logging"),
        ("patch", "spillway.dev", "logpipelines/status", "logging"),
        ("list", "spillway.dev", "logpipelines", "default"),
    ]
    expected = {
        "view": [True, False, False, False, False, False],
        "edit": [True, True, True, True, False, False],
        "admin": [True, True, True, True, False, False],
    }

    def seen():
        return {user: cluster.may(user, questions) for user in expected}

    # Aggregation takes the controller a moment.
    wait("the rights of those who view and edit", lambda: seen() == expected, cluster)
    assert seen() == expected


@pytest.mark.parametrize("file, namespace", [("spillway.yaml", "spillway-system"), ("namespaced.yaml", "logging")])
def test_the_plain_yaml_is_accepted_as_it_is(cluster, file, namespace):
    cluster.namespace(namespace)
    cluster.kubectl("apply", "--server-side", "-f", ROOT / "crds/logpipelines.yaml")
    cluster.kubectl("apply", "--server-side", "-f", ROOT / "deploy" / file)
    cluster.kubectl("apply", "-f", "-", input=pipeline(namespace=namespace))
    assert cluster.may(f"system:serviceaccount:{namespace}:spillway-operator", asked(ALLOWED, namespace)) == [True] * len(ALLOWED)
    cluster.kubectl("delete", "-f", ROOT / "deploy" / file)
    assert cluster.there("logpipeline", "logs", "-n", namespace)
