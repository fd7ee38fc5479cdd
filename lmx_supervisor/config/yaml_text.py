"""YAML as LMX reads it: safe types only, no key twice, and errors that do not quote the text, which may hold a secret."""

from typing import Any

import yaml


class YamlTextError(ValueError):
    """The text is no YAML that can be used; the message says what is wrong, and in which line where that is known."""


def parse_yaml(text: str) -> Any:
    """The document in `text`. Raises `YamlTextError`."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line.
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlTextError(f"{error.problem}{line}") from error
    except yaml.reader.ReaderError as error:
        lines_before = text.count("\n", 0, error.position)
        raise YamlTextError(f"a character that YAML does not allow in line {lines_before + 1}") from error
    except RecursionError as error:
        raise YamlTextError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlTextError("a value in it cannot be read") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML without its trap of a key written twice, where the last one silently wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key_node.value}' stands there twice", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)
