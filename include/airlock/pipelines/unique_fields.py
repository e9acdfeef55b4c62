"""Read a file of settings in which no field is written twice."""

from __future__ import annotations

from typing import Any

import yaml


class _UniqueFieldsLoader(yaml.SafeLoader):
    """PyYAML silently takes the last of two equal fields: a second ``buckets`` would drop the key of the first."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping; refuse one that has a field twice (YAML 1.2.2, 3.2.1.1: keys are unique)."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                problem = f"field {key.value!r} is written twice: remove one of the two, or put them together"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML file.

    Raises
    ------
    yaml.YAMLError
        If it is not YAML, or a field is written twice.
    """
    return yaml.load(text, Loader=_UniqueFieldsLoader)  # noqa: S506  # a SafeLoader
