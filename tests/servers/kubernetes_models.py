"""Compares objects with the models of the Kubernetes API, in an environment of requirements-kubernetes.lock.

``python -m tests.servers.kubernetes_models`` reads pairs of a model's name and an object from standard input. It writes
what is wrong with each, as a list of lists.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from kubernetes import client

_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool}
_LIST = re.compile(r"list\[(.+)\]")
_MAP = re.compile(r"dict[\[(]str, (.+)[\])]")


def find_faults(model: str, value: Any, where: str) -> list[str]:
    """Return what is wrong with an object: an unknown field, another type, a field that is missing."""
    if model == "object":  # a number or a string, as a port
        return []
    if model in _PLAIN:
        fits = isinstance(value, _PLAIN[model]) and (model == "bool") == isinstance(value, bool)
        return [] if fits else [f"{where}: {value!r} is not a {model}"]
    if of := _LIST.fullmatch(model):
        if not isinstance(value, list):
            return [f"{where}: not a list"]
        return [fault for index, one in enumerate(value) for fault in find_faults(of[1], one, f"{where}[{index}]")]
    if not isinstance(value, dict):
        return [f"{where}: not a {model}"]
    if of := _MAP.fullmatch(model):
        return [fault for key, one in value.items() for fault in find_faults(of[1], one, f"{where}.{key}")]
    return _find_faults_of_fields(getattr(client, model), value, where)


def _find_faults_of_fields(model: Any, value: dict[str, Any], where: str) -> list[str]:
    fields = {key: attribute for attribute, key in model.attribute_map.items()}
    faults = [f"{where}.{key}: {model.__name__} has no such field" for key in value if key not in fields]
    known = {fields[key]: one for key, one in value.items() if key in fields}
    try:
        model(**known)
    except ValueError as error:
        faults.append(f"{where}: {error}")
    for attribute, one in known.items():
        faults += find_faults(model.openapi_types[attribute], one, f"{where}.{model.attribute_map[attribute]}")
    return faults


if __name__ == "__main__":
    sys.stdout.write(json.dumps([find_faults(model, one, model) for model, one in json.load(sys.stdin)]))
