"""What a loaded model cannot do is refused under the name that the client knows it by."""

import msgspec
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, OutputForm, Sampling
from lmx_protocol.states import ModelTask, OutputKind
from lmx_supervisor.gateway.dialects.abilities import refuse_what_the_model_cannot
from lmx_supervisor.gateway.problem import Problem
from tests.gateway.service import FACTS

PLAIN = GenerateRequest(request_id="r", model_id="m", prompt="p")
CANNOT = msgspec.structs.replace(FACTS, unsupported_fields=("output", "logit_bias", "stop"))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"output": OutputForm(kind=OutputKind.JSON_OBJECT)}, "response_format"),
        ({"sampling": Sampling(logit_bias=((1, 2.0),))}, "logit_bias"),
        ({"stop": ("x",)}, "stop"),
    ],
)
def test_a_field_the_model_cannot_honour_is_refused(changes: dict[str, object], param: str) -> None:
    """A field of the request or of its sampling, by the dialect's name."""
    request = msgspec.structs.replace(PLAIN, **changes)
    refuse_what_the_model_cannot(request, FACTS, {})

    with pytest.raises(Problem) as refused:
        refuse_what_the_model_cannot(request, CANNOT, {"output": "response_format"})

    assert (ErrorCode.NOT_SUPPORTED, param) == (refused.value.code, refused.value.param)


def test_what_is_not_asked_for_is_not_refused() -> None:
    """A request that leaves those fields alone is served."""
    refuse_what_the_model_cannot(PLAIN, CANNOT, {})


def test_a_model_that_generates_nothing_is_refused() -> None:
    """An embedding model is told from a chat model before anything is queued for it."""
    with pytest.raises(Problem) as refused:
        refuse_what_the_model_cannot(PLAIN, msgspec.structs.replace(FACTS, tasks=(ModelTask.EMBED,)), {})

    assert (ErrorCode.NOT_SUPPORTED, "model") == (refused.value.code, refused.value.param)
