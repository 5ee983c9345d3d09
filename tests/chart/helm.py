"""The chart as Helm renders it."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/spillway"
TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spillway/tools"
NAMESPACE = "spillway-system"


def tool(name):
    """A program that tests/tools/install.sh has built, at the version that its go.mod pins."""
    module = {"helm": "helm.sh/helm/v3", "kubernetes": "k8s.io/kubernetes"}[name]
    pinned = (ROOT / "tests/tools/kubernetes/go.mod").read_text()
    version = re.search(rf"^\s*{re.escape(module)} (\S+)", pinned, re.M).group(1)
    path = TOOLS / f"{name}-{version}"
    assert path.exists(), f"{path} is missing: run tests/tools/install.sh {name}"
    return path


def helm(*arguments, input=None, environment=None):
    return subprocess.run(
        [tool("helm"), *map(str, arguments)],
        input=input,
        text=True,
        capture_output=True,
        # Nothing of the user's own configuration.
        env={**os.environ, "HELM_PLUGINS": "/nonexistent", "KUBECONFIG": "/nonexistent", **(environment or {})},
    )


@dataclass
class Rendered:
    text: str

    @cached_property
    def objects(self):
        return [o for o in yaml.load_all(self.text, Loader=yaml.CSafeLoader) if o]

    def of(self, kind, name=None):
        return [o for o in self.objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]

    def one(self, kind, name=None):
        (only,) = self.of(kind, name)
        return only

    @property
    def kinds(self):
        return {o["kind"] for o in self.objects}

    @property
    def pod(self):
        return self.one("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self):
        (only,) = self.pod["containers"]
        return only


def template(values=None, *arguments, release="spillway", namespace=NAMESPACE):
    """What `helm template` says, as a finished process. `values` is what a user's file would hold."""
    place = ["template", release, CHART, "--namespace", namespace]
    return helm(*place, *arguments, "--values", "-", input=yaml.safe_dump(values or {}))


def render(values=None, **names):
    done = template(values, **names)
    assert done.returncode == 0, done.stderr
    return Rendered(done.stdout)


def refusal(values):
    """Why Helm refuses these values."""
    done = template(values)
    assert done.returncode != 0, f"{values} was accepted"
    return done.stderr
