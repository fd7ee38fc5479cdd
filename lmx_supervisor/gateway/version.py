"""The version that probes, status and fingerprints show: the installed distribution's."""

from importlib import metadata

VERSION = metadata.version("lmx")
