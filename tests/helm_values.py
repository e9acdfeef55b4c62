"""The values of deploy/helm, merged as helm merges them, and the Kubernetes objects beside them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml

from airlock_local.settings import ROOT

HELM = ROOT / "deploy/helm"
EXECUTORS = ("celery", "kubernetes")
RELEASE = "airlock"
_EXPRESSION = re.compile(r"\{\{ \.(Values|Release)\.([A-Za-z.]+) \}\}")


@cache
def read_values(executor: str) -> dict[str, Any]:
    """Return values.yaml with the file of an executor over it."""
    return merge(_read("values.yaml"), _read(f"values-{executor}.yaml"))


def _read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((HELM / name).read_text(encoding="utf-8")))


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return two values files as helm merges them: maps key by key, all else, lists too, as a whole."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


@cache
def read_pod() -> dict[str, Any]:
    """Return the pod template of the KubernetesExecutor, rendered."""
    values = read_values("kubernetes")
    return dict(yaml.safe_load(_EXPRESSION.sub(lambda found: _look_up(values, *found.groups()), values["podTemplate"])))


def _look_up(values: dict[str, Any], where: str, path: str) -> str:
    value: Any = values if where == "Values" else {"Name": RELEASE}
    for name in path.split("."):
        value = value[name]
    return str(value)


@cache
def read_manifests() -> dict[str, list[dict[str, Any]]]:
    """Return the Kubernetes objects of each file of deploy/helm that is not a values file."""
    files = sorted(path for path in HELM.glob("*.yaml") if not path.name.startswith("values"))
    return {path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) for path in files}
