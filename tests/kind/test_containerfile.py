"""The Containerfile, read by BuildKit itself: what it would run, copy and write into the image."""

import itertools
import json
import os
import re
import shutil
import subprocess

import own_image
import pytest
from helm import render
from tools import PLATFORMS, ROOT, context, image

BUILDS = list(itertools.product(PLATFORMS, PLATFORMS))
RUST_TARGETS = {"linux/amd64": "x86_64-unknown-linux-gnu", "linux/arm64": "aarch64-unknown-linux-gnu"}


def cargo(made):
    """The command that builds, as a list of words, and its environment."""
    (build,) = [command for command in made["commands"] if "cargo build" in command["arguments"][-1]]
    return build["arguments"][-1].replace(";", " ; ").split(), dict(entry.split("=", 1) for entry in build["env"])


def after(words, flag):
    return [value for word, value in zip(words, words[1:]) if word == flag]


@pytest.mark.parametrize("build, target", BUILDS)
def test_buildkit_has_nothing_to_complain_about(build, target):
    assert image(target, build)["warnings"] == []


@pytest.mark.parametrize("build, target", BUILDS)
def test_it_is_built_on_the_builders_platform_and_runs_on_its_own(build, target):
    (builder, runtime) = image(target, build)["bases"].items()
    assert builder[0].startswith("docker.io/library/rust:") and builder[1] == build
    assert runtime[0].startswith("gcr.io/distroless/cc-") and runtime[1] == target


def test_no_base_moves_on_to_another_release_by_itself():
    rust, runtime = image()["bases"]
    toolchain = re.search(r'^channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text(), re.M).group(1)
    rust_release = re.fullmatch(rf"docker\.io/library/rust:{re.escape(toolchain)}-slim-([a-z]+)", rust).group(1)
    debian = re.fullmatch(r"gcr\.io/distroless/cc-debian(\d+):nonroot", runtime).group(1)
    # A program linked with a newer C library doesn't start.
    assert {"bookworm": "12", "trixie": "13"}[rust_release] == debian


def test_a_base_can_be_pinned_by_its_digest():
    pin = "@sha256:" + "0" * 64
    pinned = {"RUST_IMAGE": "rust:1.95.0-slim-trixie" + pin, "RUNTIME_IMAGE": "gcr.io/distroless/cc-debian13:nonroot" + pin}
    assert [base.endswith(pin) for base in image(**pinned)["bases"]] == [True, True]


def test_its_user_and_path_and_entrypoint_are_those_of_the_tests_own_image():
    config = image()["config"]
    assert config["User"] == own_image.user() == "65532:65532"
    assert config["Env"] == ["PATH=" + own_image.path()]
    assert not own_image.has_entrypoint() and not config.get("Entrypoint") and not config.get("Cmd")


def test_it_holds_the_programs_of_the_tests_own_image_where_pods_look_for_them():
    made = image()
    words, _ = cargo(made)
    assert words[words.index("cp") + 1 :] == [*own_image.programs(), "/programs/"]
    # From the builder, beside the sources that go into it.
    assert made["copies"] == ["/ /spillway/", "/programs " + own_image.folder()]


def test_its_labels_are_those_of_the_tests_own_image_and_say_what_was_built():
    given = {"VERSION": "1.2.3", "REVISION": "abc", "CREATED": "2026-01-02T03:04:05Z", "SOURCE": "https://example.com"}
    labels = image(**given)["config"]["Labels"]
    said = {f"org.opencontainers.image.{name.lower()}": value for name, value in given.items()}
    assert labels == {**own_image.labels(), **said}


@pytest.mark.parametrize("build, target", BUILDS)
def test_its_programs_are_compiled_for_its_platform_as_locked(build, target):
    words, environment = cargo(image(target, build))
    assert "--locked" in words and "--release" in words
    setup = image(target, build)["commands"][0]["arguments"][-1]
    arch = target.removeprefix("linux/")
    assert re.search(rf"{arch}\) target={RUST_TARGETS[target]} ", setup)
    linker = RUST_TARGETS[target].upper().replace("-", "_")
    compiler = RUST_TARGETS[target].replace("-unknown", "") + "-gcc"
    assert environment[f"CARGO_TARGET_{linker}_LINKER"] == compiler
    assert environment["CC_" + RUST_TARGETS[target].replace("-", "_")] == compiler
    assert environment["TARGETARCH"] == arch


def test_platforms_do_not_share_what_is_compiled():
    caches = [{cache["id"] for command in image(target)["commands"] for cache in command["caches"]} for target in PLATFORMS]
    assert caches[0] & caches[1] == {"/spillway-cargo"}
    assert [len(ids) for ids in caches] == [2, 2]


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """A folder with what a build gets, and nothing else."""
    folder = tmp_path_factory.mktemp("context")
    for name in context():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def test_cargo_finds_the_whole_workspace_in_what_a_build_gets(sent):
    # As the builder's, which has no file that names it.
    toolchain = re.search(r'^channel = "(.*)"', (ROOT / "rust-toolchain.toml").read_text(), re.M).group(1)
    done = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1"],
        text=True,
        capture_output=True,
        cwd=sent,
        env={**os.environ, "RUSTUP_TOOLCHAIN": toolchain},
    )
    assert done.returncode == 0, done.stderr
    metadata = json.loads(done.stdout)
    packages = after(cargo(image())[0], "--package")
    targets = [target for package in metadata["packages"] if package["name"] in packages for target in package["targets"]]
    assert sorted(target["name"] for target in targets if target["kind"] == ["bin"]) == sorted(own_image.programs())
    assert [target for target in targets if not (sent / target["src_path"]).exists()] == []


def test_what_the_programs_carry_inside_is_in_what_a_build_gets(sent):
    carried = 0
    for path in sent.glob("*/src/**/*.rs"):
        if path.relative_to(sent).parts[0] == "tests":
            continue
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', path.read_text()):
            assert (path.parent / name).resolve().exists(), f"{path}: {name}"
            carried += 1
    assert carried
    # These are named by a macro.
    front = {path.name for path in (ROOT / "clickhouse-front/clickhouse_front").glob("*.py")}
    assert {path.name for path in (sent / "clickhouse-front/clickhouse_front").iterdir()} == front


def test_a_build_gets_nothing_that_git_does_not_know(sent):
    """Keys and settings that lie about never leave the machine."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], text=True, capture_output=True, check=True, cwd=ROOT
    )
    known = set(done.stdout.splitlines())
    assert {str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()} <= known
    assert {path.suffix for path in sent.rglob("*") if path.is_file()} <= {".rs", ".toml", ".lock", ".py", ".txt"}


def handlers(document):
    """Every probe and hook in it."""
    if isinstance(document, list):
        return itertools.chain.from_iterable(map(handlers, document))
    if isinstance(document, dict):
        probes = ("livenessProbe", "readinessProbe", "startupProbe", "preStop", "postStart")
        own = [value for key, value in document.items() if key in probes]
        return itertools.chain(own, *map(handlers, document.values()))
    return []


def test_no_probe_of_the_chart_needs_a_program_that_the_image_lacks():
    rendered = render()
    assert rendered.container["command"] == ["spillway-operator"] and "spillway-operator" in own_image.programs()
    found = list(handlers(rendered.objects))
    assert found and all(handler.keys() & {"httpGet", "tcpSocket", "grpc", "exec"} == {"httpGet"} for handler in found)


def test_what_the_operators_pods_run_is_in_the_image():
    """Commands and hooks of the pipeline's pods, as operator/src/plan makes them."""
    text = "".join(path.read_text() for path in sorted((ROOT / "operator/src/plan").rglob("*.rs")))
    commands = re.findall(r'\bcommand: Some\(vec!\["([^"]+)"', text)
    assert sorted(commands) == ["spillway-ingest", "spillway-syncer"] and set(commands) <= set(own_image.programs())
    hooks = re.findall(r"ExecAction \{ command: Some\(\[([^\]]*)\]", text)
    assert hooks and len(hooks) == text.count("ExecAction {")
    for hook in hooks:
        assert re.findall(r'"([^"]+)"', hook)[0] in own_image.programs()
