"""Mistakes in values are refused, and the message says where."""

import json
import re

import pytest
import yaml
from helm import CHART, refusal
from test_render import EXAMPLE

MISTAKES = {
    "a mistyped name": ({"replica": 3}, ["replica"]),
    "a mistyped name deeper down": ({"metrics": {"prot": 1}}, ["metrics", "prot"]),
    "a string for a list": ({"watchNamespaces": "logging"}, ["watchNamespaces"]),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, ["watchNamespaces"]),
    "a namespace that can't exist": ({"watchNamespaces": ["Logging"]}, ["watchNamespaces"]),
    "a string for yes": ({"crds": {"install": "yes"}}, ["crds", "install"]),
    "an STS that is no URL": ({"stsEndpoint": "minio:9000"}, ["stsEndpoint"]),
    "a time without a unit": ({"cleanupTimeout": 600}, ["cleanupTimeout"]),
    "a time with another unit": ({"cleanupTimeout": "1 day"}, ["cleanupTimeout"]),
    "no replicas at all": ({"replicas": -1}, ["replicas"]),
    "a privileged port": ({"metrics": {"port": 80}}, ["metrics", "port"]),
    "another monitor": ({"metrics": {"monitor": {"kind": "VMPodScrape"}}}, ["monitor", "kind", "PodMonitor"]),
    "another log format": ({"log": {"format": "xml"}}, ["log", "format", "json"]),
    "a tag in the repository's place": ({"image": {"repository": "a@b"}}, ["image", "repository"]),
    "a digest that is none": ({"image": {"digest": "latest"}}, ["image", "digest"]),
    "a pull secret as text": ({"imagePullSecrets": ["registry"]}, ["imagePullSecrets"]),
    "any ServiceAccount's token": ({"rbac": {"tokenServiceAccounts": ["*"]}}, ["tokenServiceAccounts"]),
    "no ServiceAccount": ({"serviceAccount": {"create": False}}, ["serviceAccount.name"]),
    "an own selector": (
        {"topologySpreadConstraints": [{"topologyKey": "a", "maxSkew": 1, "whenUnsatisfiable": "x", "labelSelector": {}}]},
        ["topologySpreadConstraints"],
    ),
    "the chart's own variable": ({"env": [{"name": "POD_NAME", "value": "x"}]}, ["env"]),
    "an example without a bucket": (
        {"example": {**EXAMPLE, "bucket": {**EXAMPLE["bucket"], "name": ""}}},
        ["example.bucket.name"],
    ),
    "an example without credentials": (
        {"example": {**EXAMPLE, "bucket": {"name": "logs"}}},
        ["example.bucket.accessKeyId"],
    ),
    "an example without ClickHouse": ({"example": {**EXAMPLE, "clickhouse": {}}}, ["example.clickhouse.url"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_by_name(mistake):
    values, words = MISTAKES[mistake]
    message = refusal(values)
    for word in words:
        assert word in message


def test_the_schema_knows_exactly_the_values_that_are_there():
    def keys(schema, values, path=""):
        assert schema.get("additionalProperties") is False, f"{path or 'the top'} takes any name"
        known = schema["properties"].keys() - {"global"}
        for name in known & values.keys():
            if "properties" in schema["properties"][name] and name != "resources":
                yield from keys(schema["properties"][name], values[name], f"{path}{name}.")
        yield from ((path + name) for name in known ^ values.keys())

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(keys(schema, yaml.safe_load((CHART / "values.yaml").read_text()))) == []


def test_every_value_is_used():
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, value in values.items():
        assert re.search(rf"\.Values\.{name}\b", templates), name
        for inner in value if isinstance(value, dict) and name != "resources" else ():
            assert re.search(rf"\.{inner}\b", templates), f"{name}.{inner}"
