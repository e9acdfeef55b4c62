"""Write the policies of ``iam/`` and the function's code into the templates: ``make cloudformation`` calls it.

A line of the template such as ``PolicyDocument: # iam/worker-policy.json`` names its source. What is below that line is
written anew. After the source may stand

- files whose statements are added,
- words with their values (``BUCKET=x``),
- statements of the first file to leave out (``-Sid``), or those to keep (``@Sid``),
- conditions of the template under which a statement is there (``Sid?Condition``),
- conditions that are true where the policy stands, so that no statement asks for them (``+Condition``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEMPLATES = ("airlock.yaml", "arrivals.yaml", "ledger.yaml", "stores.yaml")

_MARKED = re.compile(r"(?P<indent> *)[\w-]+: (?:\| )?# (?P<source>(?:iam|deploy)/\S+)(?P<options>(?: \S+)*)")
_WORD = re.compile(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b")
_NO_WORDS = {"AWS", "KMS"}  # capitals that stand for themselves


@dataclass(frozen=True)
class Tagged:
    """A function of CloudFormation, ``!Sub`` or another."""

    tag: str
    value: Any


NO_VALUE = Tagged("!Ref", "AWS::NoValue")


# In this order: the longer text is replaced before its part.
TEXTS = {
    "arn:aws:": "arn:${AWS::Partition}:",
    "REGION": "${AWS::Region}",
    "ACCOUNT_ID": "${AWS::AccountId}",
    "deliveries/": "${ArchivePrefix}",
    "ARCHIVE_BUCKET": "${ArchiveBucket}",
    "STAGING_BUCKET/clinical/": "${BucketPrefix}-staging/batches/",  # one prefix for all kinds of pipelines
    "STAGING_BUCKET": "${BucketPrefix}-staging",
    "OUTPUT_BUCKET/clinical/": "${BucketPrefix}-output/imports/",
    "OUTPUT_BUCKET": "${BucketPrefix}-output",
    "WORKSPACE_BUCKET": "${BucketPrefix}-workspace",
    "CONTRACTS_BUCKET": "${BucketPrefix}-contracts",
    "datastore/fhir/DATASTORE_ID": "datastore/fhir/${HealthLakeDatastoreId}",
    "datastore/DATASTORE_ID": "datastore/${HealthImagingDatastoreId}",
    "PROFILE_ID": "${TransformationProfileId}",
}
WHOLE = {
    "arn:aws:iam::ACCOUNT_ID:role/airlock-worker": Tagged(
        "!If",
        [
            "MakeWorkerRole",
            Tagged("!GetAtt", "WorkerRole.Arn"),
            Tagged("!Sub", "arn:${AWS::Partition}:iam::${AWS::AccountId}:role${WorkerRolePath}${WorkerRoleName}"),
        ],
    ),
    "KEY_USER_ARN": Tagged("!Ref", "KeyUserArns"),
    "arn:aws:iam::ACCOUNT_ID:role/airlock-import": Tagged("!GetAtt", "ImportRole.Arn"),
    "arn:aws:iam::ACCOUNT_ID:role/airlock-fhir-import": Tagged("!GetAtt", "FhirImportRole.Arn"),
    "arn:aws:iam::ACCOUNT_ID:role/airlock-transformation": Tagged("!GetAtt", "TransformationRole.Arn"),
    "arn:aws:kms:REGION:ACCOUNT_ID:key/DATASTORE_KEY_ID": Tagged("!Ref", "StoreKeyArn"),
    "arn:aws:kms:REGION:ACCOUNT_ID:key/KEY_ID": Tagged(
        "!If", ["MakeBucketKey", Tagged("!GetAtt", "BucketKey.Arn"), Tagged("!Ref", "BucketKeyArn")]
    ),
    "arn:aws:events:REGION:ACCOUNT_ID:rule/RULE": Tagged("!GetAtt", "ArrivalsRule.Arn"),
    "clinical/*": "batches/*",
    "arn:aws:sqs:REGION:ACCOUNT_ID:airlock-arrivals": Tagged("!GetAtt", "ArrivalsQueue.Arn"),
    "arn:aws:sqs:REGION:ACCOUNT_ID:airlock-arrivals-dead": Tagged("!GetAtt", "ArrivalsDeadLetters.Arn"),
}
# A statement about one of these is there only under the condition.
CONDITIONS = {
    "KEY_USER_ARN": "ShareBucketKey",
    "arn:aws:medical-imaging:": "UseHealthImaging",
    "role/airlock-import": "UseHealthImaging",
    "arn:aws:healthlake:": "UseHealthLake",
    "role/airlock-fhir-import": "UseHealthLake",
    "role/airlock-transformation": "ConvertDocuments",
    "key/DATASTORE_KEY_ID": "UseStoreKey",
}


@dataclass(frozen=True)
class Source:
    """A policy of ``iam/`` as one place of the template has it."""

    path: str
    added: tuple[str, ...] = ()
    words: dict[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()  # all, if it is empty
    conditions: dict[str, str] = field(default_factory=dict)  # by statement
    given: frozenset[str] = frozenset()  # conditions that are true where the policy stands

    @classmethod
    def read(cls, path: str, options: str) -> Source:
        """Parse what stands after the path."""
        given = options.split()

        def marked(sign: str) -> frozenset[str]:
            return frozenset(option[1:] for option in given if option.startswith(sign))

        return cls(
            path,
            added=tuple(option for option in given if option.endswith(".json")),
            words=dict(option.split("=", 1) for option in given if "=" in option),
            left_out=marked("-"),
            kept=marked("@"),
            conditions=dict(option.split("?", 1) for option in given if "?" in option),
            given=marked("+"),
        )

    def document(self, root: Path) -> dict[str, Any]:
        """Return the policy with functions of CloudFormation instead of the words in capitals.

        Raises
        ------
        ValueError
            If a word or a statement is unknown.
        """
        first, *others = (_read_statements(root / path) for path in (self.path, *self.added))
        unknown = (self.left_out | self.kept | self.conditions.keys()) - {item["Sid"] for item in first}
        if unknown:
            raise ValueError(f"{self.path} has no statement {sorted(unknown)}, which the template names.")
        kept = [
            item for item in first if item["Sid"] not in self.left_out and (item["Sid"] in self.kept or not self.kept)
        ]
        return {"Version": "2012-10-17", "Statement": [self._statement(item) for item in sum(others, kept)]}

    def _statement(self, statement: dict[str, Any]) -> Any:
        conditions = _conditions_of({name: item for name, item in statement.items() if name != "Principal"})
        principal = statement.get("Principal", {})
        if isinstance(principal, dict) and not isinstance(principal.get("AWS"), list):
            conditions |= _conditions_of(principal)
        if statement["Sid"] in self.conditions:
            conditions.add(self.conditions[statement["Sid"]])
        inside = replace(self, given=self.given | conditions)
        return self._under(conditions, inside.fill_in(statement))

    def _under(self, conditions: set[str], value: Any) -> Any:
        """Return a value that is there only under the conditions."""
        for condition in sorted(conditions - self.given):
            value = Tagged("!If", [condition, value, NO_VALUE])
        return value

    def fill_in(self, value: Any) -> Any:
        """Return a part of a policy with functions of CloudFormation."""
        if isinstance(value, dict):
            return {key: self._fill_roles(item) if key == "AWS" else self.fill_in(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.fill_in(item) for item in value]
        return self._fill_text(value)

    def _fill_roles(self, roles: Any) -> Any:
        """Return principals, each of a list only if the stack has it."""
        if not isinstance(roles, list):
            return self.fill_in(roles)
        return [self._under(_conditions_of(role), self.fill_in(role)) for role in roles]

    def _fill_text(self, text: str) -> Any:
        if text in WHOLE:
            return WHOLE[text]
        filled = text
        for word, replacement in {**self.words, **TEXTS}.items():
            filled = filled.replace(word, replacement)
        unknown = set(_WORD.findall(re.sub(r"\$\{.*?\}", "", filled))) - _NO_WORDS
        if unknown:
            raise ValueError(f"{self.path}: nothing is known for {sorted(unknown)} in {text!r}. Add it to TEXTS.")
        return Tagged("!Sub", filled) if "${" in filled else filled


def _read_statements(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["Statement"])


def _conditions_of(value: Any) -> set[str]:
    text = json.dumps(value)
    return {condition for part, condition in CONDITIONS.items() if part in text}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  (PyYAML's signature)
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def represent_tagged(self, data: Tagged) -> yaml.Node:
        """Write a function in its short form."""
        node = self.represent_data(data.value)
        node.tag = data.tag
        if isinstance(node, yaml.ScalarNode):
            node.style = '"' if data.tag == "!Sub" else ""
        return node


_Dumper.add_representer(Tagged, _Dumper.represent_tagged)


def fill(template: str, root: Path = ROOT) -> str:
    """Return the template with every named source written below the line that names it.

    Parameters
    ----------
    template
        The text of the template.
    root
        The folder of the repository.
    """
    lines, filled, after = template.splitlines(), [], 0
    for number, line in enumerate(lines):
        if number < after:
            continue
        filled.append(line)
        marked = _MARKED.fullmatch(line)
        if marked is not None:
            after = _end_of_block(lines, number)
            filled += [f"{marked['indent']}  {written}".rstrip() for written in _write(marked, root)]
    return "\n".join(filled) + "\n"


def _end_of_block(lines: list[str], begin: int) -> int:
    """Return the number of the first line that is not part of the value of the line at `begin`."""
    margin, end = _indent_of(lines[begin]), begin + 1
    for number in range(begin + 1, len(lines)):
        if lines[number].strip():
            if _indent_of(lines[number]) <= margin:
                break
            end = number + 1
    return end


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def _write(marked: re.Match[str], root: Path) -> list[str]:
    if marked["source"].endswith(".py"):
        return (root / marked["source"]).read_text(encoding="utf-8").splitlines()
    document = Source.read(marked["source"], marked["options"]).document(root)
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, default_flow_style=None).splitlines()


if __name__ == "__main__":
    for name in TEMPLATES:
        path = Path(__file__).with_name(name)
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
