"""The scripts, with a Docker and a cargo that only write down how they are called."""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import Fakes
from tools import HERE, ROOT

SCRIPTS = [HERE / "image.sh", HERE / "e2e.sh"]
SUITE = "\n".join(path.read_text() for path in (ROOT / "tests/e2e/src").glob("*.rs"))


def build_arguments(call):
    pairs = zip(call["arguments"], call["arguments"][1:])
    return dict(value.split("=", 1) for flag, value in pairs if flag == "--build-arg")


def without(fakes, *programs):
    """A PATH on which these are missing."""
    place = fakes.folder / "without"
    place.mkdir()
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).iterdir() if Path(folder).is_dir() else []:
            if program.name not in programs and not (place / program.name).exists():
                (place / program.name).symlink_to(program)
    return str(place)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_complain_about(script):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([shellcheck, "--external-sources", script], text=True, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_the_image_is_labelled_with_the_commit_and_its_time(fakes):
    done = fakes.run(HERE / "image.sh", "spillway:dev", "--platform", "linux/amd64,linux/arm64")
    assert done.returncode == 0, done.stderr
    (call,) = fakes.calls("docker", "build")
    assert call["arguments"][:2] == ["buildx", "build"] and call["arguments"][-1] == str(ROOT)
    assert call["arguments"][-3:-1] == ["--platform", "linux/amd64,linux/arm64"]
    said = build_arguments(call)
    epoch = call["environment"]["SOURCE_DATE_EPOCH"]
    created = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
    assert said["CREATED"] == created.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", said["REVISION"])
    assert re.search(rf'^version = "{said["VERSION"]}"', (ROOT / "Cargo.toml").read_text(), re.M)
    # Each is one that the Containerfile knows.
    known = set(re.findall(r"^ARG (\w+)", (ROOT / "Containerfile").read_text(), re.M))
    assert said.keys() <= known


def test_the_same_source_gives_the_same_labels(fakes):
    given = {"SOURCE_DATE_EPOCH": "1700000000", "REVISION": "abc", "SOURCE": "https://example.com/spillway"}
    for _ in range(2):
        assert fakes.run(HERE / "image.sh", "spillway:dev", **given).returncode == 0
    first, second = (call["arguments"] for call in fakes.calls("docker", "build"))
    assert first == second
    assert build_arguments({"arguments": first}).items() >= {
        ("CREATED", "2023-11-14T22:13:20Z"),
        ("REVISION", "abc"),
        ("SOURCE", "https://example.com/spillway"),
    }


@pytest.mark.parametrize("missing", [("docker",), ("docker", "cargo", "go")])
def test_without_what_it_needs_it_says_all_that_is_missing_and_what_runs_instead(fakes, missing):
    done = subprocess.run(
        [HERE / "e2e.sh"], text=True, capture_output=True, env={"PATH": without(fakes, *missing), "HOME": str(Path.home())}
    )
    assert done.returncode == 1
    assert [line.split(":")[0].split()[0] for line in done.stderr.splitlines() if line.startswith("  ")] == list(missing)
    assert "make e2e" in done.stderr.splitlines()[-1]


def test_without_a_running_docker_it_says_so(fakes):
    done = fakes.run(HERE / "e2e.sh", FAIL="docker info")
    assert done.returncode == 1 and "a running Docker" in done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All that is called when all goes well: kind is the real one."""
    fakes = Fakes(tmp_path_factory.mktemp("whole"))
    fakes.add("cargo")
    done = e2e(fakes, "drains")
    assert done.returncode == 0, done.stdout + done.stderr
    return fakes


def e2e(fakes, *words, **environment):
    return fakes.run(HERE / "e2e.sh", *words, SPILLWAY_KIND_OUT=str(fakes.folder / "out"), **environment)


def deleted(fakes):
    return {name for call in fakes.calls("docker", "rm") for name in call["arguments"] if name.startswith("spillway-e2e")}


NODES = {"spillway-e2e-control-plane", "spillway-e2e-worker", "spillway-e2e-worker2"}


def test_the_suite_runs_once_on_the_cluster_with_the_words_that_are_given(whole):
    (call,) = whole.calls("cargo")
    assert call["arguments"][:3] == ["test", "-p", "spillway-e2e"] and call["arguments"][-2:] == ["--", "drains"]
    given = call["environment"]
    assert given["KUBECONFIG"] == str(whole.folder / "out/kubeconfig")
    assert given["SPILLWAY_E2E_NODES"] == "docker"
    assert Path(given["SPILLWAY_E2E_CLICKHOUSE_MANIFEST"]).exists()


@pytest.mark.parametrize("name", ["IMAGE", "NEXT_IMAGE", "MINIO_IMAGE", "CLICKHOUSE_IMAGE", "CLICKHOUSE_MANIFEST", "NODES", "ARTEFACTS"])
def test_the_suite_reads_what_it_is_given(whole, name):
    assert f'"SPILLWAY_E2E_{name}"' in SUITE
    (call,) = whole.calls("cargo")
    assert call["environment"][f"SPILLWAY_E2E_{name}"]


def test_the_programs_image_is_loaded_into_every_node_before_the_suite_runs(whole):
    (call,) = whole.calls("cargo")
    images = [call["environment"]["SPILLWAY_E2E_IMAGE"], call["environment"]["SPILLWAY_E2E_NEXT_IMAGE"]]
    (built,) = [c["arguments"][c["arguments"].index("--tag") + 1] for c in whole.calls("docker", "buildx", "build")]
    (copied,) = [call for call in whole.calls("docker", "create") if call["arguments"][0] == "create"]
    assert built == copied["arguments"][1] == images[0]
    assert whole.calls("docker", "commit", "a-container", images[1]) and whole.calls("docker", "rm", "a-container")
    assert whole.calls("docker", "save", *images)
    loaded = [call for call in whole.calls("docker", "import") if call["input"] == "archive"]
    assert {node for call in loaded for node in NODES & set(call["arguments"])} == NODES
    assert whole.order(loaded[-1], call)


def test_the_public_images_are_on_every_node_that_runs_pods(whole):
    (call,) = whole.calls("cargo")
    for name in ("MINIO_IMAGE", "CLICKHOUSE_IMAGE"):
        image = call["environment"][f"SPILLWAY_E2E_{name}"]
        assert re.fullmatch(r"docker\.io/\w+/[\w-]+:[\w.-]*\d[\w.-]*", image)
        pulled = whole.calls("docker", "crictl", "pull", image)
        assert {node for call in pulled for node in NODES & set(call["arguments"])} == NODES - {"spillway-e2e-control-plane"}


def test_metrics_server_is_there_before_the_suite_runs(whole):
    (applied,) = [c for c in whole.calls("docker", "kubectl", "apply") if "metrics-server" in c["input"]]
    assert applied["input"] == (HERE / "metrics-server.yaml").read_text()
    (ready,) = whole.calls("docker", "rollout", "deployment/metrics-server")
    (suite,) = whole.calls("cargo")
    assert whole.order(applied, ready) and whole.order(ready, suite)


def test_the_cluster_is_deleted_at_the_end(whole):
    assert deleted(whole) == NODES


def test_a_run_deletes_nothing_but_what_another_run_left(fakes):
    fakes.add("cargo")
    mine, theirs = fakes.folder / "out/notes", fakes.folder / "out/nodes/log"
    for file in (mine, theirs):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    e2e(fakes, FAIL="docker create")
    assert mine.exists() and not theirs.exists()


def test_a_suite_that_fails_fails_the_run_and_leaves_logs_and_no_cluster(fakes):
    fakes.add("cargo")
    done = e2e(fakes, FAIL="cargo test")
    assert done.returncode == 3
    assert str(fakes.folder / "out/nodes") in done.stdout and (fakes.folder / "out/nodes").is_dir()
    assert deleted(fakes) == NODES


def test_a_cluster_that_does_not_come_up_is_deleted_and_no_suite_runs(fakes):
    fakes.add("cargo")
    done = e2e(fakes, FAIL="kubeadm join")
    assert done.returncode != 0
    assert deleted(fakes) == NODES and not fakes.calls("cargo")


def test_a_cluster_can_be_kept(fakes):
    fakes.add("cargo")
    done = e2e(fakes, KEEP="1", SPILLWAY_KIND_IMAGE="spillway:mine")
    assert done.returncode == 0 and not deleted(fakes)
    assert "kind delete cluster --name spillway-e2e" in done.stdout
    # With the image that was named, and none that is built.
    assert fakes.calls("docker", "tag", "spillway:mine") and not fakes.calls("docker", "build")
