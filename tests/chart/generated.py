"""Files that follow from others: the chart's copy of the CRD, its versions, its table of values, and deploy/."""

import re

import yaml

from helm import CHART, ROOT, render

BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"

CLUSTER = """\
# The operator for pipelines in every namespace, rendered from charts/spillway by `make crd`.
# The LogPipeline resource is not in here, so that deleting this file's objects deletes no pipeline:
# apply crds/logpipelines.yaml before it. docs/install.md has the commands.
"""
NAMESPACED = """\
# The operator for the pipelines of one namespace, `logging`, in which it runs as well; rendered from charts/spillway by
# `make crd`. Nothing in here is cluster-wide; the LogPipeline resource (crds/logpipelines.yaml) has to be there.
# docs/install.md has the commands.
"""


def files():
    """Path -> what makes the text that it should hold. deploy/ follows from Chart.yaml, so it is made after that is written."""
    chart = ROOT / "charts/spillway"
    plain = {"crds": {"install": False}}
    namespaced = {**plain, "watchNamespaces": ["logging"], "rbac": {"aggregate": False}}
    return {
        chart / "files/logpipelines.yaml": lambda: (ROOT / "crds/logpipelines.yaml").read_text(),
        chart / "Chart.yaml": lambda: versioned((chart / "Chart.yaml").read_text(), workspace_version()),
        chart / "README.md": lambda: with_table(
            (chart / "README.md").read_text(), (chart / "values.yaml").read_text()
        ),
        ROOT / "deploy/spillway.yaml": lambda: CLUSTER + plain_yaml(render(plain).text),
        ROOT / "deploy/namespaced.yaml": lambda: NAMESPACED + plain_yaml(render(namespaced, namespace="logging").text),
    }


def workspace_version():
    manifest = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^\[workspace\.package\]\n(?:.+\n)*?version = "(.+)"$', manifest, re.M).group(1)


def versioned(text, version):
    text = re.sub(r"^version: .*$", f"version: {version}", text, flags=re.M)
    return re.sub(r"^appVersion: .*$", f'appVersion: "{version}"', text, flags=re.M)


def plain_yaml(text):
    """Without what only Helm reads: applied by hand, nothing of it is Helm's."""
    ours = ("# Source:", "    helm.sh/", "    app.kubernetes.io/managed-by: Helm")
    return "".join(line for line in text.splitlines(True) if not line.startswith(ours))


def with_table(readme, values):
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    rows = "".join(f"| `{path}` | {default} | {text} |\n" for path, default, text in described(values))
    return f"{before}{BEGIN}| value | default | |\n|---|---|---|\n{rows}{END}{after}"


def described(text):
    """(path, default, description) of each value with a `# --` comment, in the file's order."""
    values = yaml.safe_load(text)
    parents, comment, rows = [], None, []
    for line in text.splitlines():
        said = re.match(r" *# (?:(--) )?(.*)", line)
        if said and said[1]:
            comment = [said[2]]
        elif said and comment:
            comment.append(said[2])
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            parents = parents[: len(key[1]) // 2] + [key[2]]
            if comment:
                rows.append((".".join(parents), shown(lookup(values, parents)), " ".join(comment)))
            comment = None
    return rows


def lookup(values, path):
    for key in path:
        values = values[key]
    return values


def shown(default):
    if default in ("", [], {}):
        return ""
    text = default if isinstance(default, str) else yaml.safe_dump(default, default_flow_style=True, width=1000)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"
