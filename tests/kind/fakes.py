"""Programs in front of the real ones: they write down how they are called, and answer as Docker would."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

RECORD = """#!{python}
import sys
sys.path.insert(0, {here!r})
import fake_docker, fakes
sys.exit(fakes.called({name!r}, {log!r}, fake_docker.answer if {name!r} == "docker" else fakes.no_answer))
"""


def called(name, log, answer):
    arguments = sys.argv[1:]
    call = {"program": name, "arguments": arguments, "environment": dict(os.environ), "input": ""}
    # Only what is said to read it: another's standard input is the test's.
    if "/dev/stdin" in arguments or "-" in arguments:
        call["input"] = sys.stdin.read()
    # kind asks several things at a time.
    with open(log, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = calls(log)
        file.write(json.dumps(call) + "\n")
    if os.environ.get("FAIL") and os.environ["FAIL"] in " ".join([name, *arguments]):
        return 3
    print(answer(arguments, before), end="")
    return 0


def no_answer(_arguments, _before):
    return ""


def calls(log):
    path = Path(log)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Fakes:
    def __init__(self, folder):
        self.folder = folder
        self.log = str(folder / "calls")
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.add("docker")

    def add(self, name):
        program = self.bin / name
        here = str(Path(__file__).parent)
        program.write_text(RECORD.format(python=sys.executable, here=here, name=name, log=self.log))
        program.chmod(0o755)

    def run(self, *command, **environment):
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(
            list(map(str, command)),
            text=True,
            capture_output=True,
            env={**os.environ, "PATH": path, "HOME": str(Path.home()), **environment},
        )

    def calls(self, program, *words):
        """How the program was called with all of these words in its command line."""
        found = [call for call in calls(self.log) if call["program"] == program]
        return [call for call in found if all(word in call["arguments"] for word in words)]

    def order(self, first, second):
        all_calls = calls(self.log)
        return all_calls.index(first) < all_calls.index(second)
