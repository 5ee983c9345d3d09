"""The binary of tests/tools/kind."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/kind"
PLATFORMS = ["linux/amd64", "linux/arm64"]


def path():
    said = subprocess.run([ROOT / "tests/tools/install.sh", "--path", "kind"], text=True, capture_output=True, check=True)
    found = Path(said.stdout.strip())
    assert found.exists(), f"{found} is missing: run tests/tools/install.sh kind"
    return found


def run(*arguments, **options):
    return subprocess.run([path(), *map(str, arguments)], text=True, capture_output=True, **options)


def answer(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def image(target=PLATFORMS[0], build=PLATFORMS[0], **arguments):
    """What BuildKit makes of the Containerfile."""
    given = [f"{name}={value}" for name, value in arguments.items()]
    return answer("image", ROOT / "Containerfile", build, target, *given)


def context(folder=ROOT):
    """The files that a build of the image gets."""
    return answer("context", folder, ROOT / ".dockerignore")
