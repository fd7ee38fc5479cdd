"""The fields that are decoded in a second step, and to what; see `documented`."""

from typing import Annotated, Any

from msgspec import Meta

from lmx_protocol import limits
from lmx_supervisor.gateway.admin.autotune import AutotuneBody, Profiles
from lmx_supervisor.gateway.admin.downloads import DownloadBody, Patterns
from lmx_supervisor.gateway.admin.model_bodies import LoadBody
from lmx_supervisor.gateway.dialects import openai_responses_schema as responses
from lmx_supervisor.gateway.dialects import openai_tools as tools
from lmx_supervisor.gateway.dialects.anthropic_schema import Block, Citations, CustomTool, MessagesBody, OutputFormat
from lmx_supervisor.gateway.dialects.openai_chat_schema import ChatBody, ChatMessage, Modalities
from lmx_supervisor.gateway.dialects.openai_completions_schema import CompletionBody
from lmx_supervisor.gateway.dialects.openai_embeddings_request import EmbeddingBody
from lmx_supervisor.gateway.dialects.openai_fields import Biases, GenerationFields, StopString, StopStrings
from lmx_supervisor.gateway.dialects.openai_output import Choices, NamedSchema, ResponseFormat, StructuredOutputs
from lmx_supervisor.gateway.dialects.rerank import Document, RerankBody
from lmx_supervisor.gateway.openapi.documented import RawFields

_Schema = dict[str, Any] | None
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
# Written out: msgspec makes no union of several kinds of lists.
_Prompt = Annotated[
    Any,
    Meta(
        extra_json_schema={
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                _TOKENS,
                {"type": "array", "items": _TOKENS, "minItems": 1},
            ]
        }
    ),
]


def _generation_fields(body: type[GenerationFields]) -> dict[tuple[Any, str], Any]:
    shared = {
        "stop": StopString | StopStrings | None,
        "logit_bias": Biases | None,
        "guided_json": dict[str, Any] | str | None,
        "json_schema": dict[str, Any] | str | None,
        "guided_choice": Choices | None,
        # Refused with any other value.
        "grammar": None,
    }
    return {(body, name): kind for name, kind in shared.items()}


RAW_FIELDS: RawFields = {
    **_generation_fields(ChatBody),
    **_generation_fields(CompletionBody),
    (ChatBody, "tools"): Annotated[list[tools.ToolIn], Meta(max_length=limits.TOOLS_MAX)] | None,
    (ChatBody, "tool_choice"): str | tools.ToolChoiceIn | None,
    (ChatBody, "modalities"): Modalities,
    (ChatBody, "chat_template_kwargs"): dict[str, Any] | None,
    (ChatMessage, "tool_calls"): Annotated[list[tools.ToolCallIn], Meta(max_length=limits.TOOL_CALLS_MAX)] | None,
    (CompletionBody, "prompt"): _Prompt,
    (tools.FunctionIn, "parameters"): _Schema,
    (NamedSchema, "schema"): _Schema,
    (ResponseFormat, "schema"): _Schema,
    (StructuredOutputs, "json"): dict[str, Any] | str | None,
    (StructuredOutputs, "choice"): Choices | None,
    (EmbeddingBody, "input"): _Prompt,
    (RerankBody, "documents"): Annotated[list[str | Document], Meta(max_length=limits.RANK_DOCUMENTS_MAX)],
    (MessagesBody, "stop_sequences"): StopStrings | None,
    (MessagesBody, "tools"): Annotated[list[CustomTool], Meta(max_length=limits.TOOLS_MAX)] | None,
    (CustomTool, "input_schema"): _Schema,
    (OutputFormat, "schema"): dict[str, Any],
    (Block, "input"): dict[str, Any] | None,
    (Block, "citations"): Citations | list[dict[str, Any]] | None,
    (MessagesBody, "mcp_servers"): list[Any] | None,
    (responses.ResponsesBody, "input"): str | Annotated[list[responses.ItemIn], Meta(max_length=limits.MESSAGES_MAX)],
    (responses.ResponsesBody, "tools"): list[responses.FunctionToolIn] | None,
    (responses.ResponsesBody, "tool_choice"): str | responses.ResponseToolChoiceIn | None,
    (responses.ResponsesBody, "include"): responses.Included | None,
    (responses.ResponsesBody, "metadata"): responses.Metadata | None,
    (responses.FunctionToolIn, "parameters"): _Schema,
    (responses.TextFormat, "schema"): _Schema,
    (DownloadBody, "allow_patterns"): Patterns | None,
    (DownloadBody, "ignore_patterns"): Patterns | None,
    (LoadBody, "performance_overrides"): dict[str, Any] | None,
    (AutotuneBody, "profiles"): Profiles | None,
}
