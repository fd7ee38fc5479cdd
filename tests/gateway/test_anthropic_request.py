"""What a messages body asks for, in neutral terms, and what is refused with which words."""

import json
from typing import Any

import httpx
import msgspec
import pytest

from lmx_protocol.messages import GenerateRequest, Message, OutputForm, Sampling, Tool, ToolCall, ToolChoice
from lmx_protocol.states import OutputKind, ToolMode
from lmx_supervisor.gateway.body import decode_json
from lmx_supervisor.gateway.dialects.anthropic_request import to_count_request, to_generate_request
from lmx_supervisor.gateway.dialects.anthropic_schema import messages_decoder
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.problem import Problem
from tests.gateway.service import FACTS, MODEL

CHOSEN = ChosenModel(model_id=MODEL)

USER = {"role": "user", "content": "hi"}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}
CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "x"}}
ASKED = [USER, {"role": "assistant", "content": [CALL]}]


def text(words: str) -> dict[str, Any]:
    """A text block, with the marks that clients put on it."""
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


def result(content: Any = "ok", **fields: Any) -> dict[str, Any]:
    """The result of `CALL`."""
    return {"type": "tool_result", "tool_use_id": "t1", "content": content, **fields}


def ask(*turns: Any, **fields: Any) -> GenerateRequest:
    """The neutral request of a body with these turns."""
    body = {"model": MODEL, "messages": list(turns or [USER]), **fields}
    return to_generate_request(decode_json(json.dumps(body).encode(), messages_decoder), "msg_1", CHOSEN)


def test_a_plain_body() -> None:
    """The vendor's default temperature and the contract's default length, everything else as for other dialects."""
    assert ask() == GenerateRequest(
        request_id="msg_1",
        model_id=MODEL,
        messages=(Message(role="user", content="hi"),),
        max_tokens=4096,
        sampling=Sampling(temperature=1.0),
        template_arguments='{"enable_thinking":false}',
    )


def test_every_setting_arrives() -> None:
    """Sampling, stop sequences and length are taken over; what LMX has no use for is accepted."""
    request = ask(
        max_tokens=9,
        temperature=0.5,
        top_p=0.8,
        top_k=7,
        stop_sequences=["a", "b"],
        metadata={"user_id": "u"},
        service_tier="auto",
        cache_control={"type": "ephemeral", "ttl": "1h"},
        context_management={"edits": []},
        stream=True,
    )

    assert (9, ("a", "b")) == (request.max_tokens, request.stop)
    assert Sampling(temperature=0.5, top_p=0.8, top_k=7) == request.sampling


@pytest.mark.parametrize("system", ["Be brief.\nBe kind.", [text("Be brief."), text("Be kind.")]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    """As a string or as blocks."""
    assert Message(role="system", content="Be brief.\nBe kind.") == ask(system=system).messages[0]


BILLING = "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;"


@pytest.mark.parametrize("system", [f"{BILLING}\nYou are.", [text(BILLING), text("You are.")], [text(f"{BILLING}\nYou are.")]])
def test_a_volatile_line_does_not_change_the_prompt(system: Any) -> None:
    """Claude Code's billing line, which differs with each request, is not part of the prompt, so that its prefix is found."""
    assert Message(role="system", content="You are.") == ask(system=system).messages[0]


@pytest.mark.parametrize("words", [f"You are.\n{BILLING}", f"About {BILLING}", "x-anthropic-billing"])
def test_only_a_leading_volatile_line_is_left_out(words: str) -> None:
    """What a client says about that line, or after its first line, reaches the model as it is."""
    assert words == ask(system=words).messages[0].content
    assert BILLING == ask({"role": "user", "content": BILLING}).messages[0].content


def test_a_system_prompt_of_nothing_but_a_volatile_line_is_none() -> None:
    """No empty system turn is shown to the model."""
    assert ["user"] == [message.role for message in ask(system=[text(BILLING)]).messages]


def test_a_round_of_tool_use() -> None:
    """Thinking, words and calls are one assistant turn; results come before the user's words, with the tool's name."""
    said = [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        text("Looking."),
        CALL,
        {**CALL, "id": "t2"},
    ]
    failed = {"type": "tool_result", "tool_use_id": "t2", "is_error": True, "content": [text("no"), text("way")]}
    request = ask(USER, {"role": "assistant", "content": said}, {"role": "user", "content": [result(), failed, text("So?")]})

    calls = tuple(ToolCall(call_id=name, name="look", arguments='{"at": "x"}') for name in ("t1", "t2"))
    assert request.messages[1:] == (
        Message(role="assistant", content="Looking.", reasoning="Hm.", tool_calls=calls),
        Message(role="tool", content="ok", name="look", tool_call_id="t1"),
        Message(role="tool", content="Error: no\nway", name="look", tool_call_id="t2"),
        Message(role="user", content="So?"),
    )
    assert not request.continues_last_message


def test_consecutive_turns_of_one_role_are_one() -> None:
    """As the vendor promises; chat templates often refuse them otherwise."""
    turns = [USER, {"role": "user", "content": [text("there")]}, *[{"role": "assistant", "content": word} for word in "ab"]]

    request = ask(*turns)

    assert request.messages == (Message(role="user", content="hi\nthere"), Message(role="assistant", content="a\nb"))


def test_an_assistants_last_turn_is_continued() -> None:
    """A prefill: the answer goes on from it. An empty one is none."""
    assert ask(USER, {"role": "assistant", "content": "The answer is ("}).continues_last_message
    empty = ask(USER, {"role": "assistant", "content": ""})
    assert (1, False) == (len(empty.messages), empty.continues_last_message)


def test_a_system_turn_in_mid_conversation_stays_there() -> None:
    """The vendor's later models take them; where a template does not, it says so."""
    assert ["user", "system", "user"] == [turn.role for turn in ask(USER, {"role": "system", "content": "x"}, USER).messages]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"type": "text", "media_type": "text/plain", "data": "words"}, "words"),
        ({"type": "content", "content": "words"}, "words"),
        ({"type": "content", "content": [text("more"), text("words")]}, "more\nwords"),
    ],
)
def test_a_document_of_text_is_read(source: Any, expected: str) -> None:
    """With its title and context before it, in a turn or in a tool's result."""
    document = {"type": "document", "source": source, "title": "T", "context": "C", "citations": {"enabled": False}}

    assert f"T\nC\n{expected}" == ask({"role": "user", "content": [document]}).messages[0].content
    assert f"T\nC\n{expected}" == ask(*ASKED, {"role": "user", "content": [result([document])]}).messages[-1].content


def test_tools() -> None:
    """Name, description with the examples, schema as it was written, and strictness."""
    tools = [TOOL, {**TOOL, "type": "custom", "name": "b", "strict": True, "input_examples": [{"at": "y"}]}]

    request = ask(tools=tools)

    schema = json.dumps(TOOL["input_schema"])
    assert request.tools == (
        Tool(name="look", description="Looks.", parameters=schema),
        Tool(name="b", description='Looks.\nExample input: {"at": "y"}', parameters=schema, strict=True),
    )
    assert ToolChoice() == request.tool_choice


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice(mode=ToolMode.AUTO)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(mode=ToolMode.AUTO, parallel=False)),
        ({"type": "any"}, ToolChoice(mode=ToolMode.REQUIRED)),
        ({"type": "tool", "name": "look"}, ToolChoice(mode=ToolMode.NAMED, name="look")),
        ({"type": "none"}, ToolChoice(mode=ToolMode.NONE)),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    """Each way to choose."""
    assert expected == ask(tools=[TOOL], tool_choice=choice).tool_choice


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "adaptive"}}, {"enable_thinking": True}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "max"}},
            {"enable_thinking": True, "thinking_budget": 2000, "reasoning_effort": "high"},
        ),
    ],
)
def test_thinking_is_for_the_template(fields: Any, expected: Any) -> None:
    """Off unless it is asked for, as at the vendor."""
    assert expected == json.loads(ask(**fields).template_arguments)


def test_a_backend_without_template_arguments_is_not_bothered() -> None:
    """It would refuse them: they are sent only where the client asked for what they say."""
    facts = msgspec.structs.replace(FACTS, unsupported_fields=("template_arguments",))
    without_arguments = ChosenModel(model_id=MODEL, facts=facts)
    for thinking, expected in ((None, ""), ({"type": "disabled"}, ""), ({"type": "adaptive"}, '{"enable_thinking":true}')):
        body = json.dumps({"model": MODEL, "messages": [USER], "thinking": thinking}).encode()
        request = to_generate_request(decode_json(body, messages_decoder), "msg_1", without_arguments)

        assert expected == request.template_arguments


@pytest.mark.parametrize("field", ["output_format", "output_config"])
def test_structured_output(field: str) -> None:
    """The schema holds the answer, under its name today and under the one it had in the beta."""
    wanted = {"type": "json_schema", "schema": {"type": "object"}}

    request = ask(**{field: wanted if field == "output_format" else {"format": wanted}})

    assert OutputForm(kind=OutputKind.JSON_SCHEMA, source='{"type": "object"}') == request.output


def test_a_count_is_of_the_same_prompt() -> None:
    """What is counted is what would be generated from; a thinking budget needs no room in an answer that nobody asks for."""
    fields = {"system": "s", "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 9000}}
    body = {"model": MODEL, "messages": [USER], **fields}

    count = to_count_request(decode_json(json.dumps(body).encode(), messages_decoder), "count-1", CHOSEN)

    generate = ask(USER, max_tokens=10_000, **fields)
    assert (generate.messages, generate.tools, generate.template_arguments) == (
        count.of.messages,
        count.of.tools,
        count.of.template_arguments,
    )
    assert ("count-1", MODEL) == (count.request_id, count.model_id)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
CITED = {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}
MISSING = "this field is required."
CUT = "content blocks of type"


def user(*blocks: Any) -> dict[str, Any]:
    """A body whose one turn has these blocks."""
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def assistant(*blocks: Any) -> dict[str, Any]:
    """A body whose second turn has these blocks."""
    return {"messages": [USER, {"role": "assistant", "content": list(blocks)}, USER]}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages: expected `array` of length >= 1."),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: invalid enum value 'tool'."),
    "no content": ({"messages": [{"role": "user"}]}, f"messages.0.content: {MISSING}"),
    "image": (
        user(text("see"), IMAGE),
        f"messages.0.content.1.type: {CUT} 'image' are not supported here; supported are 'text', 'document', 'tool_result'.",
    ),
    "audio": (
        user({"type": "input_audio"}),
        (
            f"messages.0.content.0.type: {CUT} 'input_audio' are not supported here; "
            "supported are 'text', 'document', 'tool_result'."
        ),
    ),
    "pdf": (
        user(PDF),
        "messages.0.content.0.source.type: documents of type 'base64' are not supported; supported are 'text' and 'content'.",
    ),
    "document without source": (user({"type": "document"}), f"messages.0.content.0.source: {MISSING}"),
    "document without data": (
        user({"type": "document", "source": {"type": "text"}}),
        f"messages.0.content.0.source.data: {MISSING}",
    ),
    "image in a document": (
        user({"type": "document", "source": {"type": "content", "content": [IMAGE]}}),
        f"messages.0.content.0.source.content.0.type: {CUT} 'image' are not supported here; supported are 'text'.",
    ),
    "citations": (user(CITED), "messages.0.content.0.citations: citations are not supported; leave them out."),
    "image in a result": (
        {"messages": [*ASKED, {"role": "user", "content": [result([IMAGE])]}]},
        f"messages.2.content.0.content.0.type: {CUT} 'image' are not supported here; supported are 'text', 'document'.",
    ),
    "call of the user's": (
        user(CALL),
        f"messages.0.content.0.type: {CUT} 'tool_use' are not supported here; supported are 'text', 'document', 'tool_result'.",
    ),
    "result of the assistant's": (
        assistant(result()),
        f"messages.1.content.0.type: {CUT} 'tool_result' are not supported here; supported are 'text', 'thinking', 'tool_use'.",
    ),
    "server tool in history": (
        assistant({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}),
        (
            f"messages.1.content.0.type: {CUT} 'server_tool_use' are not supported here; "
            "supported are 'text', 'thinking', 'tool_use'."
        ),
    ),
    "text without text": (user({"type": "text"}), f"messages.0.content.0.text: {MISSING}"),
    "thinking without thinking": (assistant({"type": "thinking"}), f"messages.1.content.0.thinking: {MISSING}"),
    "call without id": (assistant({**CALL, "id": None}), f"messages.1.content.0.id: {MISSING}"),
    "call without name": (assistant({**CALL, "name": None}), f"messages.1.content.0.name: {MISSING}"),
    "call without input": (assistant({**CALL, "input": None}), f"messages.1.content.0.input: {MISSING}"),
    "call with a list": (assistant({**CALL, "input": []}), "messages.1.content.0.input: expected an object."),
    "two calls of one id": (
        assistant(CALL, CALL),
        "messages.1.content.1.id: 't1' is the id of another `tool_use` block; ids must be unique.",
    ),
    "call without result": (
        assistant(CALL),
        "messages.1: `tool_use` blocks without a `tool_result` block in the next message: t1.",
    ),
    "call without result, later": (
        {"messages": [*assistant(CALL)["messages"], {"role": "assistant", "content": "x"}]},
        "messages.1: `tool_use` blocks without a `tool_result` block in the next message: t1.",
    ),
    "result without call": (
        user(result()),
        "messages.0.content.0.tool_use_id: 't1' is no open `tool_use` block of the message before.",
    ),
    "result without id": (user({"type": "tool_result"}), f"messages.0.content.0.tool_use_id: {MISSING}"),
    "image in system": (
        {"system": [IMAGE]},
        f"system.0.type: {CUT} 'image' are not supported here; supported are 'text'.",
    ),
    "hot": ({"temperature": 1.1}, "temperature: expected `float` <= 1.0."),
    "top_p": ({"top_p": 1.5}, "top_p: expected `float` <= 1.0."),
    "no tokens": ({"max_tokens": 0}, "max_tokens: expected `int` >= 1."),
    "too many stops": ({"stop_sequences": ["x"] * 17}, "stop_sequences: expected `array` of length <= 16."),
    "web search": (
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        (
            "tools.0.type: 'web_search_20250305' is a tool of Anthropic's own, which LMX does not have; "
            "define a tool with an input_schema."
        ),
    ),
    "tool without name": ({"tools": [{"input_schema": {"type": "object"}}]}, f"tools.0.name: {MISSING}"),
    "tool without schema": ({"tools": [{"name": "a"}]}, f"tools.0.input_schema: {MISSING}"),
    "schema of a string": (
        {"tools": [{"name": "a", "input_schema": {"type": "string"}}]},
        "tools.0.input_schema.type: invalid enum value 'string'.",
    ),
    "schema without type": ({"tools": [{"name": "a", "input_schema": {}}]}, f"tools.0.input_schema.type: {MISSING}"),
    "schema that is a list": ({"tools": [{"name": "a", "input_schema": []}]}, "tools.0.input_schema: expected an object."),
    "example that is a list": (
        {"tools": [{**TOOL, "input_examples": [[]]}]},
        "tools.0.input_examples.0: expected an object.",
    ),
    "deferred tool": (
        {"tools": [{**TOOL, "defer_loading": True}]},
        "tools.0.defer_loading: there is no tool search; send the tools that the model may use.",
    ),
    "tool for code execution": (
        {"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]},
        "tools.0.allowed_callers: only ['direct'] is supported.",
    ),
    "choice of nothing": ({"tool_choice": {"type": "tool"}}, f"tool_choice.name: {MISSING}"),
    "choice of a stranger": (
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}},
        "tool_choice.name: there is no tool 'x' in tools.",
    ),
    "any of none": (
        {"tool_choice": {"type": "any"}},
        "tool_choice: this asks for a tool to be called, and there are no tools.",
    ),
    "thinking without budget": ({"thinking": {"type": "enabled"}}, f"thinking.budget_tokens: {MISSING}"),
    "small budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 1023}},
        "thinking.budget_tokens: expected `int` >= 1024.",
    ),
    "budget over the length": (
        {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 2000},
        "thinking.budget_tokens: this must be less than max_tokens, which is 2000.",
    ),
    "thinking between tools": (
        {"thinking": {"type": "between_tools"}},
        "thinking.type: supported are 'enabled', 'disabled' and 'adaptive'.",
    ),
    "output of another type": (
        {"output_config": {"format": {"type": "regex", "schema": {}}}},
        "output_config.format.type: invalid enum value 'regex'.",
    ),
    "output schema that is a list": (
        {"output_config": {"format": {"type": "json_schema", "schema": []}}},
        "output_config.format.schema: expected an object.",
    ),
    "mcp servers": (
        {"mcp_servers": [{"type": "url"}]},
        "mcp_servers: LMX connects to no MCP servers; call their tools yourself.",
    ),
    "container": ({"container": "c1"}, "container: there are no containers here; leave it out."),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_bodies(name: str, client: httpx.AsyncClient) -> None:
    """Each is a 400 whose message begins with the place in the body, for messages and for counts alike."""
    fields, expected = BAD[name]
    body = {"model": MODEL, "messages": [USER], **fields}
    routes = ["/v1/messages"] if name == "budget over the length" else ["/v1/messages", "/v1/messages/count_tokens"]

    for route in routes:
        response = await client.post(route, json=body)

        assert 400 == response.status_code
        assert {"type": "invalid_request_error", "message": expected} == response.json()["error"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"m","messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"b","input":{"c":"\xff"}}]}]}',
         "messages.0.content.0.input"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"name":"b","input_schema":{"c":"\xff"}}]}',
         "tools.0.input_schema"),
    ],
)  # fmt: skip
def test_broken_bytes_in_what_passes_through(body: bytes, param: str) -> None:
    """JSON that is kept as text is text: bytes that are no UTF-8 are refused with their place."""
    with pytest.raises(Problem) as problem:
        to_generate_request(decode_json(body, messages_decoder), "msg_1", CHOSEN)

    assert param == problem.value.param


@pytest.mark.parametrize("field", [b'"content":', b'"content":[{"type":"tool_result","content":'])
def test_nesting_has_an_end(field: bytes) -> None:
    """A million brackets are bad JSON, not the end of the process."""
    for opening in (b"[", b'[{"type":"text","content":'):
        body = b'{"model":"m","messages":[{"role":"user",' + field + opening * 200_000
        with pytest.raises(Problem):
            decode_json(body, messages_decoder)
