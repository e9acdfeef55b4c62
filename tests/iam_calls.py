"""The requests to AWS that a module can make, read from its code: it cannot hide one by naming it in another way.

They are botocore's operations, named as methods of a client or as text (paginators, ``getattr``, waiters), boto3's
transfers of files, obstore's reads, and the requests that the code signs itself. A word that is also a name of ours,
such as ``list_objects``, counts where it is asked of a client.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from botocore import xform_name
from botocore.loaders import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CODE = ("include/airlock", "include/airlock_cli", "include/airlock_edge", "plugins", "dags")
SERVICES = (
    *("cloudformation", "events", "healthlake", "iam", "kms", "medical-imaging"),
    *("s3", "s3control", "sns", "sqs", "sts"),
)
_CLIENTS = {"client", "_client", "conn", "kms", "_without_retries"}
_WORDS = {"verify", "get_template"}  # of TLS and of Jinja; KMS and CloudFormation have operations of these names
_UPLOADS = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload")
_TRANSFERS = {
    "upload_fileobj": _UPLOADS,
    "upload_file": _UPLOADS,
    "download_fileobj": ("HeadObject", "GetObject"),
    "download_file": ("HeadObject", "GetObject"),
}
_OBSTORE = {"get_async": "GetObject"}
_SIGNS = {"botocore.auth", "botocore.signers"}  # a module that imports them makes requests that botocore does not see
_FHIR_SENDS = {"self.endpoint.send", "self._ask"}  # of FhirEndpoint, and of FhirStore
SIGNED = {  # those modules, and what they send
    "plugins/healthaws/fhir.py": "the requests of healthlake_fhir.py, by its methods",
    "include/airlock/clinical/fhir_store.py": "its own, by its methods",
    "include/airlock/storage/copy_requests.py": "CopyObject",
}
FHIR = ("plugins/healthaws/hooks/healthlake_fhir.py", "include/airlock/clinical/fhir_store.py")


@cache
def _operations() -> dict[str, set[str]]:
    """Return botocore's operations as ``service:Operation``, by their names and by those of a client's methods.

    Where S3 and S3 Control have the same name, it is S3's, unless the client is made in the same expression.
    """
    found: dict[str, set[str]] = {}
    for service in SERVICES:
        for name, operation in _operations_of(service).items():
            if service != "s3control" or name not in _operations_of("s3"):
                found.setdefault(name, set()).add(operation)
    return found


@cache
def _operations_of(service: str) -> dict[str, str]:
    names = Loader().load_service_model(service, "service-2")["operations"]
    return {name: f"{service}:{operation}" for operation in names for name in (operation, xform_name(operation))}


@cache
def _text(module: str) -> str:
    return (ROOT / module).read_text(encoding="utf-8")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_text(module))


@cache
def _modules_to_read() -> frozenset[str]:
    """Return the modules that can name an operation: to parse all of the code would take most of the time."""
    words = _operations().keys() | _TRANSFERS.keys() | {"obstore"}
    return frozenset(
        module
        for module in modules()
        if module in FHIR or module in SIGNED or not words.isdisjoint(re.findall(r"\w+", _text(module)))
    )


@cache
def modules() -> list[str]:
    """Return the modules of the code, and the models of its waiters."""
    paths = [path for folder in CODE for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".json"}]
    return sorted(
        str(path.relative_to(ROOT)) for path in paths if path.suffix == ".py" or path.parent.name == "waiters"
    )


@cache
def calls_of(module: str) -> frozenset[str]:
    """Return the operations that a module names."""
    if module not in _modules_to_read():
        return frozenset()
    if module.endswith(".json"):
        waiters = json.loads(_text(module))["waiters"].values()
        return frozenset(f"{Path(module).stem}:{waiter['operation']}" for waiter in waiters)
    return frozenset(calls_in(module, _tree(module)))


def calls_in(module: str, tree: ast.Module) -> set[str]:
    """Return the operations that a module's tree names."""
    found = {name for node in ast.walk(tree) for name in _named_by(node)}
    if module in FHIR:
        found |= _fhir_interactions(tree)
    if module == "include/airlock/storage/copy_requests.py":
        found.add("s3:CopyObject")
    return found


def signs(module: str) -> bool:
    """Return whether a module signs requests itself."""
    return any(re.search(rf"^ *(from|import) {re.escape(name)}\b", _text(module), re.MULTILINE) for name in _SIGNS)


def _named_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _find(node.value, is_client=False)
    elif isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "obstore" and node.attr.islower():
            yield f"s3:{_OBSTORE.get(node.attr, f'obstore.{node.attr}')}"
        service = _service_of(node.value)
        if service and node.attr in _operations_of(service):
            yield _operations_of(service)[node.attr]
            return
        receiver = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        yield from _find(node.attr, is_client=bool(service) or receiver in _CLIENTS)


def _service_of(node: ast.AST) -> str:
    """Return the service of ``client("service")``; "" if the expression is another."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "client":
        named = [one.value for one in node.args[:1] if isinstance(one, ast.Constant)]
        return named[0] if named and named[0] in SERVICES else ""
    return ""


def _find(name: str, *, is_client: bool) -> Iterator[str]:
    if is_client or name not in _own_names() | _WORDS:
        yield from _operations().get(name, ())
        yield from (f"s3:{operation}" for operation in _TRANSFERS.get(name, ()))


@cache
def _own_names() -> frozenset[str]:
    """Return the names of functions and classes of the code; a Protocol's are those of somebody else's client."""
    trees = [_tree(module) for module in _modules_to_read() if module.endswith(".py")]
    return frozenset(name for tree in trees for name in _defined_in(tree.body))


def _defined_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases):
            yield from _defined_in(node.body)


def _fhir_interactions(tree: ast.Module) -> set[str]:
    """Return the methods of the FHIR interface that send requests: each is an interaction."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {f"fhir:{one.name.strip('_')}" for one in functions if _sends(one)}


def _sends(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(node.func) in _FHIR_SENDS for node in ast.walk(function) if isinstance(node, ast.Call))
