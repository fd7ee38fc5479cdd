"""What must hold between configuration values; bounds of single values are in the schema."""

from pathlib import PurePath

from lmx_protocol import limits
from lmx_supervisor.config.broken_rule import BrokenRule
from lmx_supervisor.config.names import why_no_alias
from lmx_supervisor.config.schema import Config
from lmx_supervisor.config.security_rules import broken_security_rules
from lmx_supervisor.config.time_zones import time_zone


def broken_rules(config: Config) -> list[BrokenRule]:
    """Every rule this configuration breaks; empty when it can be used."""
    return [
        *_broken_orders(config),
        *_broken_paths(config),
        *_broken_aliases(config),
        *_unknown_time_zone(config),
        *broken_security_rules(config.security),
    ]


def _broken_orders(config: Config) -> list[BrokenRule]:
    server, supervision, models, downloads = config.server, config.supervision, config.models, config.downloads
    must_not_exceed = [
        ("supervision.restart_initial_seconds", supervision.restart_initial_seconds,
         "supervision.restart_max_seconds", supervision.restart_max_seconds),
        ("supervision.load_stall_seconds", supervision.load_stall_seconds,
         "supervision.load_total_seconds", supervision.load_total_seconds),
        ("server.body_bytes_max", server.body_bytes_max, "server.held_bodies_bytes_max", server.held_bodies_bytes_max),
        ("downloads.retry_initial_seconds", downloads.retry_initial_seconds,
         "downloads.retry_max_seconds", downloads.retry_max_seconds),
        ("models.queue_per_model", models.queue_per_model, "models.queue_total", models.queue_total),
    ]  # fmt: skip
    must_stay_below = [
        ("supervision.beat_interval_seconds", supervision.beat_interval_seconds,
         "supervision.beat_suspect_seconds", supervision.beat_suspect_seconds),
        ("supervision.beat_suspect_seconds", supervision.beat_suspect_seconds,
         "supervision.beat_dead_seconds", supervision.beat_dead_seconds),
        # Each beat re-arms the watchdog: a shorter one would kill every healthy worker.
        ("supervision.beat_interval_seconds", supervision.beat_interval_seconds,
         "supervision.c_watchdog_seconds", supervision.c_watchdog_seconds),
    ]  # fmt: skip
    return [
        BrokenRule(key, limit_key, _too_much(f"{_plain(value)} must not exceed {limit_key} ({_plain(limit)})", limit_key))
        for key, value, limit_key, limit in must_not_exceed
        if value > limit
    ] + [
        BrokenRule(key, limit_key, _too_much(f"{_plain(value)} must be less than {limit_key} ({_plain(limit)})", limit_key))
        for key, value, limit_key, limit in must_stay_below
        if value >= limit
    ]


def _too_much(what: str, limit_key: str) -> str:
    return f"{what}; lower it, or raise {limit_key}"


def _plain(number: float) -> str:
    """Sizes in bytes digit by digit, seconds without a needless `.0`."""
    return f"{number:g}" if isinstance(number, float) else str(number)


def _broken_paths(config: Config) -> list[BrokenRule]:
    """A relative path would mean another file for every directory the service is started from."""
    paths = [
        ("models.models_directory", config.models.models_directory),
        ("presets.directory", config.presets.directory),
        ("logging.file", config.logging.file),
        ("journaling.session_logs_dir", config.journaling.session_logs_dir),
        ("journaling.update_logs_dir", config.journaling.update_logs_dir),
        *((f"models.paths.{model_id}", path) for model_id, path in config.models.paths.items()),
    ]
    return [
        BrokenRule(key, key, f"'{path}' must be an absolute path or start with ~/")
        for key, path in paths
        if path is not None and not (PurePath(path).is_absolute() or path.startswith("~/"))
    ] + [
        BrokenRule("models.paths", "models.paths", f"a model id must have at most {limits.MODEL_ID_CHARACTERS_MAX} characters")
        for model_id in config.models.paths
        if len(model_id) > limits.MODEL_ID_CHARACTERS_MAX
    ]


def _broken_aliases(config: Config) -> list[BrokenRule]:
    """Names that mean something else can never be reached as aliases."""
    return [
        BrokenRule(f"routing.aliases.{alias}", "routing.aliases", f"an alias cannot be called that: {why}")
        for alias in config.routing.aliases
        if (why := why_no_alias(alias)) is not None
    ]


def _unknown_time_zone(config: Config) -> list[BrokenRule]:
    key = "journaling.timezone"
    try:
        time_zone(config.journaling.timezone)
    except ValueError as error:
        return [BrokenRule(key, key, str(error))]
    return []
