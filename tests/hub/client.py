"""A process with a Hub client of its own that talks to the tests' Hub, and runs code as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub.server import Hub

ROOT = Path(__file__).parents[2]

# Reads a line of JSON for each call and answers with one; what the code prints stays beside its answer. Whoever asks a
# question, as transformers does of remote code, finds nobody there and need not wait for an answer.
_LOOP = """
import contextlib, io, json, logging, os, sys, traceback
answers, sys.stdout = sys.stdout, sys.stderr
calls, sys.stdin = sys.stdin, open(os.devnull)
names = {}
for line in calls:
    code, values = json.loads(line)
    names.update(values, result=None)
    output, answer = io.StringIO(), {}
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        logged = logging.StreamHandler(output)
        logging.getLogger().addHandler(logged)
        try:
            exec(code, names)
        except SystemExit as stop:
            names["result"] = stop.code
        except BaseException as error:
            answer = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
        logging.getLogger().removeHandler(logged)
    answers.write(json.dumps({**answer, "result": names["result"], "output": output.getvalue()}) + "\\n")
    answers.flush()
"""


class ClientError(Exception):
    """Error that the code raised: the name of its class, with its message."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Client:
    """The client's process. `everything` is all that it printed, logged and raised, including tracebacks."""

    def __init__(self, hub: Hub, home: Path, **options: Any):
        environment = os.environ | hub.environment(home, **options)
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._log = home / "stderr.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LOOP], env=environment, cwd=home, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._said: list[str] = []

    def run(self, code: str, **values: Any) -> Any:
        """Run code, which finds `values` (JSON) as variables and leaves its result (JSON) in `result`; names persist
        between calls.

        Raises:
            ClientError: whatever the code raised.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([code, values], default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process has ended: {self._log.read_text()}"
        answer = json.loads(line)
        self._said += [answer["output"], answer.get("trace", "")]
        self.output = answer["output"]
        if "error" in answer:
            raise ClientError(answer["error"], answer["message"])
        return answer["result"]

    @property
    def everything(self) -> str:
        return "\n".join([*self._said, self._log.read_text()])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()  # its interpreter takes seconds to end by itself
        self._process.wait()
