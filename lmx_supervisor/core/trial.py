"""Loads that only try settings, and what is remembered of a model meanwhile."""

from dataclasses import dataclass

from lmx_protocol.messages import ModelSpec
from lmx_supervisor.core.load_profile import UNTUNED, ProfileLayers


@dataclass(frozen=True, slots=True)
class WantedModel:
    """A model that a restart of the service has to bring back."""

    spec: ModelSpec
    backend: str
    keep_alive_seconds: float | None = None
    profile: ProfileLayers = UNTUNED


@dataclass(frozen=True, slots=True)
class Trial:
    """A load that only tries settings: what comes of it says nothing about the model as it is usually loaded.

    It unloads nobody, is not unloaded for others, is not started again when it dies, and counts towards no quarantine
    (docs/adr/0021).
    """

    before: WantedModel | None
    """What a restart of the service brings back meanwhile."""
