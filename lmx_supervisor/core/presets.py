"""Presets: a name for a model together with how it is asked and loaded. Pure: read from documents, kept in a book.

`preset:NAME` in a request stands for the preset's model, its system prompt and the parameters that the request leaves out. A
preset that says anything that cannot be done is refused whole, with the reason: half of one would be something else.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lmx_protocol import limits
from lmx_protocol.messages import Message
from lmx_supervisor.config.names import AUTO, PRESET_PREFIX, why_no_alias
from lmx_supervisor.config.schema import Alias
from lmx_supervisor.core.load_profile import (
    NOTHING,
    GenerationDefaults,
    LoadProfile,
    ProfileError,
    read_defaults,
    read_profile,
    settings_of,
)

ModelName = Annotated[str, Meta(min_length=1, max_length=limits.MODEL_ID_CHARACTERS_MAX)]
PresetName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9._-]{{1,{limits.PRESET_NAME_CHARACTERS_MAX}}}\Z")]


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preset as a file says it; null means that it is left out."""

    name: PresetName
    model: ModelName
    description: Annotated[str, Meta(max_length=limits.PRESET_DESCRIPTION_CHARACTERS_MAX)] | None = None
    parameters: dict[str, Any] | None = None
    system_prompt: str | None = None
    routing_alias: Alias | None = None
    auto_load: bool | None = None
    performance: dict[str, Any] | None = None
    chat_template: str | None = None


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """One preset."""

    name: str
    model: str
    """An id, an alias or `auto`."""
    description: str = ""
    parameters: GenerationDefaults = GenerationDefaults()
    """For requests that leave them out."""
    system_prompt: str = ""
    """For conversations that have none."""
    routing_alias: str | None = None
    """The alias that the model is added to."""
    auto_load: bool = False
    """Load the model at the start."""
    performance: LoadProfile = NOTHING
    """How the model is loaded, where neither the load itself nor an autotune says."""

    def shown(self) -> dict[str, Any]:
        """As GET /admin/presets shows it."""
        return {
            "name": self.name,
            "description": self.description,
            "model": self.model,
            "parameters": msgspec.to_builtins(self.parameters),
            "system_prompt": self.system_prompt or None,
            "routing_alias": self.routing_alias,
            "auto_load": self.auto_load,
            "performance": settings_of(self.performance),
            "chat_template": None,
        }


class PresetError(Exception):
    """A document that is no preset; the text says why."""


def read_preset(document: object) -> Preset:
    """The preset that a parsed file says. Raises `PresetError`."""
    try:
        said = msgspec.convert(document, _Document)
        parameters = read_defaults(said.parameters or {}, "parameters")
        performance = read_profile(said.performance or {}, "performance")
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        raise PresetError(f"{place.rstrip('`')}: {reason[0].lower()}{reason[1:]}" if place else reason) from error
    except ProfileError as error:
        raise PresetError(str(error)) from error
    _refuse_what_cannot_be(said)
    return Preset(
        name=said.name,
        model=said.model,
        description=said.description or "",
        parameters=parameters,
        system_prompt=said.system_prompt or "",
        routing_alias=said.routing_alias,
        auto_load=bool(said.auto_load),
        performance=performance,
    )


def _refuse_what_cannot_be(said: _Document) -> None:
    if said.chat_template:
        raise PresetError("chat_template: a model is asked with the chat template it was trained with; leave this out")
    if said.model.startswith(PRESET_PREFIX):
        raise PresetError("model: a preset cannot stand for another preset; name the model")
    if said.model == AUTO and (said.auto_load or said.routing_alias is not None or said.performance):
        raise PresetError("model: auto_load, routing_alias and performance need the id of one model, not `auto`")
    if said.routing_alias is not None and (why := why_no_alias(said.routing_alias)) is not None:
        raise PresetError(f"routing_alias: an alias cannot be called that: {why}")


class PresetBook:
    """The presets of one moment, by name. Never changes."""

    def __init__(self, presets: Iterable[Preset] = ()) -> None:
        self._presets = {preset.name: preset for preset in sorted(presets, key=lambda preset: preset.name)}

    def __iter__(self) -> Iterator[Preset]:
        """In the order of their names."""
        return iter(self._presets.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._presets)

    def __eq__(self, other: object) -> bool:
        """Whether they say the same."""
        return isinstance(other, PresetBook) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # equal by what is in it, and nobody keeps one in a set

    def find(self, name: str) -> Preset | None:
        """The preset of that name."""
        return self._presets.get(name)

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._presets)

    def routes(self) -> list[tuple[str, str]]:
        """Aliases, and the models that presets add to them."""
        return [(preset.routing_alias, preset.model) for preset in self if preset.routing_alias is not None]

    def auto_load(self, aliases: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """The models to load at the start; of an alias the first."""
        models = (preset.model for preset in self if preset.auto_load)
        return tuple(dict.fromkeys(aliases[model][0] if aliases.get(model) else model for model in models))

    def performance_of(self, model_id: str) -> LoadProfile:
        """How a model is to be loaded: as the first preset of it says that says anything."""
        said = (preset.performance for preset in self if preset.model == model_id)
        return next((performance for performance in said if performance != NOTHING), NOTHING)


class Skipped(msgspec.Struct, frozen=True):
    """A file that gives no preset, and why."""

    file: str
    reason: str


def bind(read: Iterable[tuple[str, Preset | str]]) -> tuple[PresetBook, tuple[Skipped, ...]]:
    """A book of what was read, file by file: a preset, or why there is none. Of two of one name the first file's counts."""
    presets: dict[str, Preset] = {}
    files: dict[str, str] = {}
    skipped: list[Skipped] = []
    for file, found in read:
        if isinstance(found, str):
            skipped.append(Skipped(file, found))
        elif found.name in presets:
            skipped.append(Skipped(file, f"name: '{found.name}' is the preset of {files[found.name]} already"))
        else:
            presets[found.name], files[found.name] = found, file
    return PresetBook(presets.values()), tuple(skipped)


def with_system_prompt(messages: tuple[Message, ...], system_prompt: str) -> tuple[Message, ...]:
    """The conversation, begun with a system prompt unless it has one of its own."""
    if not system_prompt or any(message.role == "system" for message in messages):
        return messages
    return (Message(role="system", content=system_prompt), *messages)
