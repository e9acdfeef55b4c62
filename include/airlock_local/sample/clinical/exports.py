"""The clean part of the delivery: the exports of three sites, in three ways."""

import json
from collections.abc import Iterator
from itertools import chain
from uuid import NAMESPACE_URL, uuid5

from airlock_local.sample.archive import CLEAN
from airlock_local.sample.clinical.delivery import Delivery, Line, Resource
from airlock_local.sample.clinical.records import organization, patient, practitioner, visit
from airlock_local.sample.sites import LAKEVIEW, NORDHAVEN, SAKURAGAWA, Site


def _resources(site: Site) -> Iterator[Resource]:
    yield organization(site)
    yield practitioner(site)
    for number, person in enumerate(site.patients):
        yield from chain([patient(site, person)], visit(site, number))


def add_files_by_type(delivery: Delivery) -> None:
    """Add a file per resource type, as FHIR's bulk export writes them; the largest one gzipped."""
    by_type: dict[str, list[Line]] = {}
    for resource in _resources(NORDHAVEN):
        by_type.setdefault(resource["resourceType"], []).append(Line(resource))
    for kind, lines in by_type.items():
        ending = ".ndjson.gz" if kind == "Observation" else ".ndjson"
        delivery.add_lines(f"nordhaven/{kind}{ending}", lines)


def add_one_file(delivery: Delivery) -> None:
    """Add one file of all types in one, under a name that is not ASCII."""
    delivery.add_lines("sakuragawa/診療記録 2026-03.ndjson", map(Line, _resources(SAKURAGAWA)))


def add_bundles(delivery: Delivery) -> None:
    """Add a transaction per patient, whose entries refer to each other by urn:uuid, and a batch of the site."""
    base = [organization(LAKEVIEW), practitioner(LAKEVIEW)]
    delivery.add_bundle("lakeview/site.json", "batch", [(_put(resource), CLEAN) for resource in base])
    for number, person in enumerate(LAKEVIEW.patients):
        whole = [patient(LAKEVIEW, person), *visit(LAKEVIEW, number)]
        delivery.add_bundle(
            f"lakeview/transactions/{number + 1}.json", "transaction", [(entry, CLEAN) for entry in _linked(whole)]
        )


def _put(resource: Resource) -> Resource:
    name = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": name}}


def _linked(resources: list[Resource]) -> Iterator[Resource]:
    """Yield an entry per resource; references among them become those of a Bundle (FHIR R4, "Bundle")."""
    names = [f"{resource['resourceType']}/{resource['id']}" for resource in resources]
    urls = {name: f"urn:uuid:{uuid5(NAMESPACE_URL, f'https://lakeview.example/{name}')}" for name in names}
    for name, resource in zip(names, resources, strict=True):
        text = json.dumps(resource)
        for known, url in urls.items():
            text = text.replace(f'"reference": "{known}"', f'"reference": "{url}"')
        yield {"fullUrl": urls[name], **_put(json.loads(text))}
