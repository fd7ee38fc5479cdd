"""The `llm` command line tool, unmodified, with LMX as one of its extra OpenAI models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.contract.conftest import KEY
from tests.support.live import LiveServer

SCRIPT = """
answers:
  - {contains: "tool: 42", pieces: ["It", " is", " 42", "."]}
  - {contains: "multiply", tool_calls: [{name: multiply, arguments: ['{"a": 6,', ' "b": 7}']}]}
  - {contains: "France", pieces: ["The", " capital", " is", " Paris", "."]}
  - {contains: "crash", pieces: ["tick "], tokens: 50, token_seconds: 0.01}
faults: [{when: token, number: 5, contains: "crash", do: kill}]
"""
MULTIPLY = '''
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b
'''


@pytest.fixture(scope="module")
def model(service: LiveServer) -> str:
    """A loaded model."""
    name = service.script("for-llm", SCRIPT)
    service.load(name)
    return name


@pytest.fixture
def home(service: LiveServer, model: str, tmp_path: Path) -> Path:
    """The tool's own directory, with the model registered as its documentation says."""
    entry = {
        "model_id": "lmx",
        "model_name": model,
        "api_base": f"{service.url}/v1",
        "api_key_name": "lmx",
        "supports_tools": True,
    }
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump([entry]))
    (tmp_path / "keys.json").write_text(json.dumps({"lmx": KEY}))
    return tmp_path


def llm(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tool, without the plug-ins that happen to be installed."""
    environment = {**os.environ, "LLM_USER_PATH": str(home), "LLM_LOAD_PLUGINS": ""}
    command = [sys.executable, "-m", "llm", *arguments]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_it_prints_the_answer(home: Path, options: tuple[str, ...]) -> None:
    """Streamed, as it does by default, and whole."""
    ran = llm(home, "-m", "lmx", *options, "Capital of France?")

    assert (0, "The capital is Paris.\n") == (ran.returncode, ran.stdout), ran.stderr


def test_it_calls_a_tool(home: Path) -> None:
    """A Python function is offered as a tool, called, and its result answered."""
    ran = llm(home, "-m", "lmx", "--functions", MULTIPLY, "Please multiply 6 by 7.")

    assert (0, "It is 42.\n") == (ran.returncode, ran.stdout), ran.stderr


def test_a_crash_is_an_error(home: Path, service: LiveServer, model: str) -> None:
    """An answer that breaks off is told as such, with a status that scripts notice."""
    ran = llm(home, "-m", "lmx", "crash")

    assert ran.returncode != 0
    assert "died while it answered" in ran.stderr
    service.wait_for_state(model, "ready")
