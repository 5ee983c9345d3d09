"""The workflow for a public repository, read by actionlint."""

import re
import sys
from pathlib import Path

import own_image
import pytest
import yaml
from tools import HERE, ROOT, run

WORKFLOW = ROOT / ".github/workflows/ci.yaml"
JOBS = yaml.safe_load(WORKFLOW.read_text())["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]
COMMANDS = "\n".join(step["run"] for step in STEPS if "run" in step)


def lint(path):
    shellcheck = Path(sys.executable).parent / "shellcheck"
    return run("actionlint", "-shellcheck", shellcheck, "-no-color", path, cwd=ROOT)


def test_actionlint_has_nothing_to_complain_about():
    done = lint(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "mistake, why",
    [
        (("runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"), "runs_on"),
        (("needs: images", "needs: pictures"), "pictures"),
        (("github.actor", "github.author"), "author"),
        (("--input arm64.tar", "--input $FILE"), "shellcheck"),
    ],
)
def test_actionlint_finds_a_mistake_in_it(tmp_path, mistake, why):
    """Else the test above would show nothing."""
    text = WORKFLOW.read_text()
    (tmp_path / "ci.yaml").write_text(text.replace(*mistake))
    done = lint(tmp_path / "ci.yaml")
    assert done.returncode == 1 and why in done.stdout, done.stdout


def test_it_runs_all_tests_and_the_suite_on_kind_and_builds_the_image_for_both_platforms():
    targets = set(re.findall(r"^make ([a-z0-9-]+)$", COMMANDS, re.M))
    assert targets == {"lint", "test", "e2e-kind"}
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if not re.search(rf"^{target}:.*##", makefile, re.M)] == []
    for platform in ("linux/amd64", "linux/arm64", "linux/amd64,linux/arm64"):
        assert f"--platform {platform} " in COMMANDS


def test_every_program_of_the_image_is_started_on_both_platforms():
    loops = re.findall(r"for program in ([^;]*); do docker run", COMMANDS)
    assert [loop.split() for loop in loops] == [own_image.programs()] * 2


def test_scripts_that_it_runs_are_there():
    named = set(re.findall(r"\btests/kind/[\w./-]+", COMMANDS))
    assert named == {"tests/kind/image.sh"} and all((ROOT / name).stat().st_mode & 0o111 for name in named)
    assert HERE == ROOT / "tests/kind"


def test_nothing_is_pushed_but_from_a_tag():
    pushing = [step for step in STEPS if "--push" in step.get("run", "") or "login-action" in step.get("uses", "")]
    assert len(pushing) == 2 and {step.get("if") for step in pushing} == {"startsWith(github.ref, 'refs/tags/v')"}
    rights = {name: job.get("permissions", {}) for name, job in JOBS.items()}
    assert [name for name, may in rights.items() if "write" in may.values()] == ["images"]


def test_actions_are_githubs_and_dockers_own_by_major_version():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"(actions|docker)/[a-z-]+@v\d+", action) for action in used)
