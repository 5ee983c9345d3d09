"""The operator's rights: all have a reason, none is wider than it must be."""

import re

import pytest
from helm import render

SCOPES = {"cluster": {}, "namespaced": {"watchNamespaces": ["logging", "audit"]}}
TOKENS = {"rbac": {"tokenServiceAccounts": ["logs-bucket"]}}


def rules(rendered):
    return [
        rule
        for kind in ("ClusterRole", "Role")
        for role in rendered.of(kind)
        if "operator" in role["metadata"]["name"]
        for rule in role["rules"]
    ]


@pytest.mark.parametrize("scope", SCOPES)
def test_every_rule_has_its_reason_beside_it(scope):
    lines = render({**SCOPES[scope], **TOKENS}).text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r" *- apiGroups:", line)]
    assert len(starts) > 15
    for i in starts:
        assert re.match(r" *# .{10,}", lines[i - 1]), f"no reason before: {lines[i:i + 3]}"


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_is_granted_by_a_wildcard(scope):
    for rule in rules(render({**SCOPES[scope], **TOKENS})):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]


@pytest.mark.parametrize("scope", SCOPES)
def test_the_operator_can_not_widen_its_rights(scope):
    made = rules(render({**SCOPES[scope], **TOKENS}))
    verbs = {verb for rule in made for verb in rule["verbs"]}
    assert not verbs & {"escalate", "bind", "impersonate", "deletecollection"}
    resources = {resource for rule in made for resource in rule["resources"]}
    assert not resources & {"clusterroles", "clusterrolebindings", "pods/exec", "nodes", "customresourcedefinitions"}


def test_tokens_are_made_of_named_service_accounts_only():
    assert not [r for r in rules(render()) if "serviceaccounts/token" in r["resources"]]
    (rule,) = [r for r in rules(render(TOKENS)) if "serviceaccounts/token" in r["resources"]]
    assert rule["resourceNames"] == ["logs-bucket"] and rule["verbs"] == ["create"]


@pytest.mark.parametrize("scope", SCOPES)
def test_what_the_operator_grants_to_the_syncer_it_holds_itself(scope):
    # Else the API server refuses the syncer's Role: get and update of its Lease.
    where = "ClusterRole" if scope == "cluster" else "Role"
    for role in render(SCOPES[scope]).of(where, "spillway-operator"):
        (lease,) = [rule for rule in role["rules"] if "leases" in rule["resources"]]
        assert {"get", "update"} <= set(lease["verbs"]) and "resourceNames" not in lease


def test_operators_in_one_namespace_lead_by_leases_of_their_own():
    made = render({"watchNamespaces": ["audit"]}, release="audit")
    (lease,) = [a for a in made.container["args"] if a.startswith("--lease-name=")]
    (held,) = [r for r in made.one("Role", "audit-operator-leader")["rules"] if "update" in r["verbs"]]
    assert [lease] == [f"--lease-name={name}" for name in held["resourceNames"]] == ["--lease-name=audit-operator"]


def test_in_namespaced_scope_nothing_is_granted_elsewhere():
    made = render({**SCOPES["namespaced"], "rbac": {"aggregate": False}})
    assert not {"ClusterRole", "ClusterRoleBinding"} & made.kinds
    granted = {(o["metadata"]["namespace"], o["roleRef"]["name"]) for o in made.of("RoleBinding")}
    assert granted == {
        ("logging", "spillway-operator"),
        ("audit", "spillway-operator"),
        ("spillway-system", "spillway-operator-leader"),
    }
    # The same in each, and the same as in cluster scope.
    everywhere = render().one("ClusterRole", "spillway-operator")["rules"]
    assert [o["rules"] for o in made.of("Role", "spillway-operator")] == [everywhere, everywhere]


def test_users_get_pipelines_with_the_roles_they_have():
    view, edit = (render().one("ClusterRole", f"spillway-{name}") for name in ("view", "edit"))
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    # What a pipeline's status says comes from the operator alone.
    assert not [r for r in edit["rules"] if "logpipelines/status" in r["resources"]]
    assert not {"ClusterRole"} & render({"rbac": {"aggregate": False}, "watchNamespaces": ["a"]}).kinds
