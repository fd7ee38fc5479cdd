"""Presets: what a document must say, what is refused and why, and what a book of them tells."""

from typing import Any

import pytest

from lmx_protocol.messages import Message
from lmx_supervisor.core.load_profile import NOTHING, GenerationDefaults, LoadProfile
from lmx_supervisor.core.presets import Preset, PresetBook, PresetError, Skipped, bind, read_preset, with_system_prompt

WHOLE: dict[str, Any] = {
    "name": "code-assistant",
    "description": "Writes code.",
    "model": "org/coder",
    "parameters": {"temperature": 0.1, "top_p": 0.9, "max_tokens": 256, "stop": "END"},
    "system_prompt": "You write code.",
    "routing_alias": "code",
    "auto_load": True,
    "performance": {"kv_bits": 8, "prefix_cache": True, "max_concurrent": 2, "speculative": {"draft_model": None}},
    "chat_template": None,
}


def test_a_whole_preset() -> None:
    """Every field of the contract, the predecessor's names among them; nulls are left out."""
    preset = read_preset(WHOLE)

    assert preset == Preset(
        name="code-assistant",
        description="Writes code.",
        model="org/coder",
        parameters=GenerationDefaults(temperature=0.1, top_p=0.9, max_tokens=256, stop=("END",)),
        system_prompt="You write code.",
        routing_alias="code",
        auto_load=True,
        performance=LoadProfile(kv_bits=8, prefix_cache=True, slots=2),
    )
    assert {
        **WHOLE,
        "parameters": {"temperature": 0.1, "top_p": 0.9, "max_tokens": 256, "stop": ("END",)},
        "performance": {"kv_bits": 8, "prefix_cache": True, "slots": 2},
    } == preset.shown()


def test_the_least_preset() -> None:
    """A name and a model; everything else says nothing."""
    assert Preset(name="x", model="m") == read_preset({"name": "x", "model": "m"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "name: expected `str`, got `null`"),
        ({"name": "a b"}, "name: expected `str` matching regex"),
        ({"model": ""}, "model: expected `str` of length >= 1"),
        ({"sytem_prompt": "x"}, "unknown field `sytem_prompt`"),
        ({"auto_load": "yes"}, "auto_load: expected `bool | null`"),
        ({"parameters": {"temperature": 3}}, "parameters.temperature: expected `float` <= 2.0"),
        ({"parameters": {"num_ctx": 4096}}, "parameters.num_ctx: there is no such setting"),
        ({"parameters": {"slots": 2}}, "parameters.slots: there is no such setting"),
        ({"performance": {"kv_group_size": 64}}, "performance.kv_group_size: LMX has nothing that this would tune"),
        ({"chat_template": "{{ messages }}"}, "chat_template: a model is asked with the chat template it was trained with"),
        ({"model": "preset:y"}, "model: a preset cannot stand for another preset"),
        ({"model": "auto"}, "model: auto_load, routing_alias and performance need the id of one model"),
        ({"routing_alias": "auto"}, "routing_alias: an alias cannot be called that"),
        ({"routing_alias": "preset:y"}, "routing_alias: an alias cannot be called that"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(change: dict[str, Any], words: str) -> None:
    """The whole preset, never half of it."""
    with pytest.raises(PresetError) as refused:
        read_preset({**WHOLE, **change})

    assert words in str(refused.value)


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_what_is_no_map_is_no_preset(document: object) -> None:
    """An empty file, a list, a word."""
    with pytest.raises(PresetError):
        read_preset(document)


def test_a_book_is_bound_in_the_order_of_its_files() -> None:
    """The first of a name counts; what could not be read is remembered with its file."""
    first, second = Preset(name="x", model="a"), Preset(name="x", model="b")
    book, skipped = bind([("1.yaml", first), ("2.yaml", "is not valid YAML"), ("3.yaml", second)])

    assert [first] == list(book)
    assert (Skipped("2.yaml", "is not valid YAML"), Skipped("3.yaml", "name: 'x' is the preset of 1.yaml already")) == skipped


def test_what_a_book_tells() -> None:
    """By name; aliases with their models, models to load, and how a model is loaded."""
    fast = LoadProfile(slots=1)
    book = PresetBook(
        [
            Preset(name="z", model="m", routing_alias="chat", performance=LoadProfile(slots=9)),
            Preset(name="a", model="m"),
            Preset(name="k", model="m", auto_load=True, performance=fast),
            Preset(name="l", model="code", auto_load=True),
        ]
    )

    assert ("a", "k", "l", "z") == book.names()
    assert ("k", None) == (getattr(book.find("k"), "name", None), book.find("unheard-of"))
    assert [("chat", "m")] == book.routes()
    assert ("m", "first") == book.auto_load({"code": ("first", "second")})
    assert (fast, NOTHING) == (book.performance_of("m"), book.performance_of("other"))
    assert book == PresetBook(book) != PresetBook()


def test_a_system_prompt_is_for_conversations_without_one() -> None:
    """Wherever the conversation has its own."""
    user, system = Message(role="user", content="hi"), Message(role="system", content="own")

    assert (Message(role="system", content="s"), user) == with_system_prompt((user,), "s")
    assert (user, system) == with_system_prompt((user, system), "s")
    assert (user,) == with_system_prompt((user,), "")
