"""The commands of docs/install.md, one section after the other, on a real API server."""

import os
import re
import subprocess

import pytest
from helm import ROOT, tool

# Sections that begin where another one ends.
AFTER = {"Upgrading": ["With Helm"], "Uninstalling": ["With Helm"]}
PROGRAMS = {
    # There are no kubelets here, so what waits for pods would wait for ever.
    "kubectl": f"""#!/bin/sh
for word; do case $word in rollout|wait) exit 0;; esac; done
exec {tool("kubernetes")} kubectl "$@"
""",
    "helm": f"""#!/bin/sh
exec {tool("helm")} "$@"
""",
}
# What the last command is about: a pipeline that waits for an operator that isn't there any more.
LEFT_OVER = """
kubectl apply --server-side -f crds/logpipelines.yaml
until kubectl --namespace logging get logpipelines; do sleep 0.2; done
kubectl create -f - <<END
{apiVersion: spillway.dev/v1alpha1, kind: LogPipeline, spec: {deletionPolicy: Delete},
 metadata: {name: logs, namespace: logging, finalizers: [spillway.dev/cleanup]}}
END
"""


def sections():
    page = (ROOT / "docs/install.md").read_text()
    parts = re.split(r"^## (.+)$", page, flags=re.M)[1:]
    return {
        title: re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S) for title, text in zip(parts[::2], parts[1::2])
    }


SECTIONS = sections()


def test_every_section_has_commands():
    assert len(SECTIONS) == 5 and all(SECTIONS.values())


@pytest.mark.parametrize("title", SECTIONS)
def test_the_commands_of_a_section_work(cluster, tmp_path, title):
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    blocks = [block for before in AFTER.get(title, []) for block in SECTIONS[before]] + SECTIONS[title]
    if title == "Uninstalling":
        blocks.insert(-1, LEFT_OVER)
    home = cluster.folder / "helm"
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KUBECONFIG": str(cluster.kubeconfig),
        "HOME": str(cluster.folder),
        **{f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")},
    }
    script = "set -eux -o pipefail\n" + "\n".join(blocks)
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
