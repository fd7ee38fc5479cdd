"""The language of scripted models: a YAML file `NAME.script.yaml`, every key optional, unknown keys refused.

    answers:                  # the first one whose `contains` is in the prompt is given; default: one that echoes
      - contains: "France"    # "" fits every prompt
        pieces: ["Par", "is", "."]        # one token each
        tokens: 3             # how many tokens; the pieces are repeated as needed. Default: the pieces once
        token_seconds: 0.02   # real time between two tokens; 0: one per step
        finish: stop          # or `length`
        reasoning: ["Hm", "."]            # thought before the pieces
        tool_calls:           # made after the pieces (which may be left out then) by a request that has tools and may call them
          - {name: look, arguments: ['{"at": ', '"sky"}']}      # JSON text in pieces; default: `{}`
        logprob: -0.25        # of every token, for who asks; alternatives are `<1>`, `<2>`, each less likely by 1
      - echo: true            # the words of the last message instead of pieces
    written_as: hermes        # the pieces of chats are written as such a model writes, and are parsed: <think>…</think>, and
                              # calls for requests that may call. A name of `text.answer_format.CALL_STYLES`, or harmony
    prefill:
      chunk_seconds: 0.1      # real time per chunk of the prompt (a token is a word)
    tasks: [generate]         # what it can be asked for, also [embed] (which ranks by cosine) and [rank] (a cross-encoder)
    reading:                  # how inputs are embedded and ranked: vectors are made of the words
      dimensions: 16
      input_seconds: 0.0      # real time per input
    load:
      import_seconds: 0       # only with LMX_SCRIPTED_BOOT, see below
      seconds: 2              # real time
      callbacks: 20           # how often progress is told meanwhile
      bytes: 1000000000       # what progress and facts claim as the size of the weights
      ballast_bytes: 0        # memory the model really takes
      fail: insufficient_memory           # end the load with this error code
    context_length: 4096
    sharing: nothing          # what it pretends to take of the host, and can be given less of: nothing, time or threads
    faults:
      - {when: token, number: 5, contains: "crash", do: segfault, lives: 1}

A fault is a moment and a deed. When (`when`):

    import, hello    while booting; the model is not known then, so these are read from the script that the environment
                     variable LMX_SCRIPTED_BOOT names
    load             half-way through the load
    ready            with the first heartbeat after the model was loaded
    request          `number`-th request since the load whose prompt contains `contains`, before its first step. The
                     supervisor's canary is a request too
    token            when the `number`-th token of any request whose prompt contains `contains` is due, before it is sent;
                     of an embedding or a ranking: the `number`-th input
    cancel           `number`-th cancelled request
    probe            the model is probed, in a process that does nothing else
    shutdown         the Shutdown message arrives

`lives: N` confines a fault to the first N loads of the file (they are counted in `<file>.lives` beside it), so that a worker
can crash once and be well after its restart.

What (`do`):

    exit, sys_exit          leave at once with `code`; or raise SystemExit(`code`) in the engine
    segfault, abort, kill   SIGSEGV; SIGABRT after writing `line` to stderr; SIGKILL to itself
    stop                    SIGSTOP to itself
    stall                   the engine does nothing for `seconds` (0: for ever); beats go on
    hold_gil                nothing in this process does anything any more
    leak                    take `bytes_per_second` until `bytes` are taken
    flood                   write `bytes` to `stream` (stdout, stderr) as `shape` (lines, one_line, binary)
    helper                  leave a process of its own behind that sleeps for `seconds` (0: an hour)
    raise                   raise in the engine, with `line` as the message: fails every running request
    fail_request            fail the one request (when: request, token)
    garbage                 send bytes that are no message
    oversized               send a frame over the limit
    second_hello            send a second Hello
    seq_gap                 leave a hole in the next numbered text
    double_finished         end the next finished request twice
    foreign_request         send text for a request nobody made
    ignore_credit           send without regard to credit, for requests that come after this
    ignore_shutdown         never hear Shutdown again
    mute                    never send anything again (when: hello: never say Hello)
    wrong_version           say Hello in another protocol version (when: hello)

Nothing here is random: the same requests in the same order give the same answers.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from lmx_protocol.errors import ErrorCode
from lmx_protocol.limits import TOOL_CALLS_MAX
from lmx_protocol.states import ComputeSharing, FinishReason, ModelTask
from lmx_worker.text.answer_format import CALL_STYLES, AnswerFormat
from lmx_worker.text.reasoning import THINK_MARKS

HARMONY = "harmony"
SUFFIX = ".script.yaml"
SCRIPT_BYTES_MAX = 1024**2
NESTING_MAX = 8

Seconds = Annotated[float, Meta(ge=0, le=86400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=0, le=2**50)]

Trigger = Literal["import", "hello", "load", "ready", "request", "token", "cancel", "shutdown", "probe"]
ProcessFault = Literal[
    "exit", "sys_exit", "segfault", "abort", "kill", "stop", "stall", "hold_gil", "leak", "flood", "helper", "raise"
]
WireLie = Literal[
    "garbage",
    "oversized",
    "second_hello",
    "seq_gap",
    "double_finished",
    "foreign_request",
    "ignore_credit",
    "ignore_shutdown",
    "mute",
    "wrong_version",
]


def _check_pieces(pieces: tuple[str, ...]) -> None:
    for piece in pieces:
        if not piece:
            raise ValueError("an empty piece")
        _check_text(piece)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not encodable text: {error}") from error


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a script."""


class Call(Section, frozen=True, kw_only=True):
    """A tool that an answer calls."""

    name: str
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_text(self.name)
        _check_pieces(self.arguments)


class Answer(Section, frozen=True, kw_only=True):
    """What to emit for a prompt."""

    contains: str = ""
    reasoning: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()
    echo: bool = False
    tool_calls: Annotated[tuple[Call, ...], Meta(max_length=TOOL_CALLS_MAX)] = ()
    tokens: Count | None = None
    token_seconds: Seconds = 0.0
    finish: FinishReason = FinishReason.STOP
    logprob: Annotated[float, Meta(ge=-1000, le=0)] = -0.25

    def __post_init__(self) -> None:
        if self.echo and self.pieces:
            raise ValueError("an answer has either `pieces` or `echo: true`")
        if not (self.echo or self.pieces or self.tool_calls):
            raise ValueError("an answer has either `pieces` or `echo: true`, or it has `tool_calls`")
        if self.tokens and not (self.echo or self.pieces):
            raise ValueError("`tokens` says how often pieces are repeated, and there are none")
        _check_pieces(self.reasoning)
        _check_pieces(self.pieces)


class Prefill(Section, frozen=True, kw_only=True):
    """How prompts are processed."""

    chunk_seconds: Seconds = 0.0


class ReadingPlan(Section, frozen=True, kw_only=True):
    """How inputs are embedded and ranked."""

    dimensions: Annotated[int, Meta(ge=1, le=4096)] = 16
    input_seconds: Seconds = 0.0


class LoadPlan(Section, frozen=True, kw_only=True):
    """How the load goes."""

    import_seconds: Seconds = 0.0
    seconds: Seconds = 0.0
    callbacks: Count = 10
    bytes: Bytes = 1_000_000
    ballast_bytes: Bytes = 0
    fail: ErrorCode | None = None


class Fault(Section, frozen=True, kw_only=True):
    """One misbehaviour and when it happens."""

    when: Trigger
    do: ProcessFault | WireLie | Literal["fail_request"]
    number: Count = 1
    contains: str = ""
    lives: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    code: Annotated[int, Meta(ge=0, le=255)] = 3
    line: str = "scripted fault"
    seconds: Seconds = 0.0
    bytes: Bytes = 256 * 1024**2
    bytes_per_second: Bytes = 100 * 1024**2
    stream: Literal["stdout", "stderr"] = "stderr"
    shape: Literal["lines", "one_line", "binary"] = "lines"

    def __post_init__(self) -> None:
        if self.do == "fail_request" and self.when not in ("request", "token"):
            raise ValueError("`fail_request` needs `when: request` or `when: token`")
        if self.do == "wrong_version" and self.when != "hello":
            raise ValueError("`wrong_version` needs `when: hello`")
        if self.when == "probe" and (self.do not in get_args(ProcessFault) or self.lives):
            raise ValueError("`when: probe` knows only what a process does to itself, and no `lives`: it is no load")
        _check_text(self.line)


class Script(Section, frozen=True, kw_only=True):
    """A whole scripted model."""

    answers: tuple[Answer, ...] = (Answer(echo=True),)
    written_as: str | None = None
    prefill: Prefill = Prefill()
    tasks: Annotated[tuple[ModelTask, ...], Meta(min_length=1)] = (ModelTask.GENERATE,)
    reading: ReadingPlan = ReadingPlan()
    load: LoadPlan = LoadPlan()
    context_length: Annotated[int, Meta(ge=2, le=1_048_576)] = 4096
    sharing: ComputeSharing = ComputeSharing.NOTHING
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if self.written_as not in (None, HARMONY, *CALL_STYLES):
            known = ", ".join(sorted((HARMONY, *CALL_STYLES)))
            raise ValueError(f"`written_as` is {self.written_as}; known are {known}")

    @property
    def answer_format(self) -> AnswerFormat | None:
        """How the answers are written, or None: as they are."""
        if self.written_as is None:
            return None
        if self.written_as == HARMONY:
            return AnswerFormat(template_knows_tools=True, is_harmony=True)
        return AnswerFormat(calls=CALL_STYLES[self.written_as], template_knows_tools=True, reasoning=THINK_MARKS)


def read_script(path: Path) -> Script:
    """Parse a script. Raises `OSError`, and `ValueError` naming the key and the reason."""
    with path.open("rb") as file:
        data = file.read(SCRIPT_BYTES_MAX + 1)
    if len(data) > SCRIPT_BYTES_MAX:
        raise ValueError(f"over {SCRIPT_BYTES_MAX} bytes")
    try:
        _check_nesting(data)
        return msgspec.yaml.decode(data, type=Script)
    except (msgspec.DecodeError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error


def _check_nesting(data: bytes) -> None:
    """Refuse deep nesting event by event: libyaml composes by recursion in C, and a megabyte of `[` would crash it."""
    depth = 0
    for event in yaml.parse(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > NESTING_MAX:
            raise ValueError(f"nested more than {NESTING_MAX} levels deep")
