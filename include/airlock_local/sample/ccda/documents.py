"""Synthetic C-CDA documents (HL7 C-CDA R2.1, Continuity of Care Document); nobody in them exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT_ROOT = "1.2.840.99999.1"
CCD = "2.16.840.1.113883.10.20.22.1.2"
US_REALM_HEADER = "2.16.840.1.113883.10.20.22.1.1"
CCDA_2015 = "2015-08-01"
LOINC, SNOMED, RXNORM = "2.16.840.1.113883.6.1", "2.16.840.1.113883.6.96", "2.16.840.1.113883.6.88"


def ccd(
    number: int = 1,
    *,
    problems: int = 1,
    sections: Sequence[str] = (),
    document_id: str | None = None,
    effective_time: str = "20260102030405+0000",
) -> bytes:
    """Return a Continuity of Care Document.

    Parameters
    ----------
    number : int
        Tells patients and documents apart.
    problems : int
        Entries of the problem section.
    sections : sequence of str
        Further sections, as `vital_signs` and `unmapped_section` return them.
    document_id : str, optional
        The whole ``id`` element, in place of one that is made from `number`; empty for none.
    effective_time : str
        HL7 timestamp of the document.
    """
    chosen_id = f'<id root="{DOCUMENT_ROOT}" extension="doc-{number}"/>' if document_id is None else document_id
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <realmCode code="US"/>
  <typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
  <templateId root="{US_REALM_HEADER}" extension="{CCDA_2015}"/>
  <templateId root="{CCD}" extension="{CCDA_2015}"/>
  {chosen_id}
  <code code="34133-9" codeSystem="{LOINC}" displayName="Summarization of Episode Note"/>
  <title>Summary {number}</title>
  <effectiveTime value="{effective_time}"/>
  <confidentialityCode code="N" codeSystem="2.16.840.1.113883.5.25"/>
  <languageCode code="en-US"/>
  {_record_target(number)}
  {_author()}
  {_custodian()}
  <component><structuredBody>
    {problem_section(number, problems)}
    {"".join(sections)}
  </structuredBody></component>
</ClinicalDocument>
""".encode()


def _record_target(number: int) -> str:
    return f"""<recordTarget><patientRole>
    <id root="1.2.840.99999.2" extension="patient-{number}"/>
    <addr use="HP"><streetAddressLine>1 Example Way</streetAddressLine><city>Nowhere</city><state>OR</state>
      <postalCode>99999</postalCode><country>US</country></addr>
    <telecom use="HP" value="tel:+1-555-0100"/>
    <patient>
      <name use="L"><given>Testcase</given><family>Invented{number}</family></name>
      <administrativeGenderCode code="F" codeSystem="2.16.840.1.113883.5.1"/>
      <birthTime value="19700102"/>
    </patient>
  </patientRole></recordTarget>"""


def _author() -> str:
    return """<author><time value="20260102030405+0000"/><assignedAuthor>
    <id root="2.16.840.1.113883.4.6" extension="9999999999"/>
    <addr><streetAddressLine>2 Example Way</streetAddressLine><city>Nowhere</city><state>OR</state>
      <postalCode>99999</postalCode><country>US</country></addr>
    <telecom use="WP" value="tel:+1-555-0101"/>
    <assignedPerson><name><given>Sample</given><family>Author</family></name></assignedPerson>
  </assignedAuthor></author>"""


def _custodian() -> str:
    return """<custodian><assignedCustodian><representedCustodianOrganization>
    <id root="1.2.840.99999.3" extension="org"/><name>Example Clinic</name>
    <telecom use="WP" value="tel:+1-555-0102"/>
    <addr><streetAddressLine>3 Example Way</streetAddressLine><city>Nowhere</city><state>OR</state>
      <postalCode>99999</postalCode><country>US</country></addr>
  </representedCustodianOrganization></assignedCustodian></custodian>"""


def problem_section(number: int, problems: int) -> str:
    """Return a problem section (entries required) with asthma as often as asked for."""
    entries = "".join(_problem(number, index) for index in range(problems))
    return _section("2.16.840.1.113883.10.20.22.2.5.1", CCDA_2015, "11450-4", "Problems", entries)


def _problem(number: int, index: int) -> str:
    return f"""<entry typeCode="DRIV"><act classCode="ACT" moodCode="EVN">
    <templateId root="2.16.840.1.113883.10.20.22.4.3" extension="{CCDA_2015}"/>
    <id root="{DOCUMENT_ROOT}.{number}" extension="concern-{index}"/>
    <code code="CONC" codeSystem="2.16.840.1.113883.5.6"/>
    <statusCode code="active"/>
    <effectiveTime><low value="20250301"/></effectiveTime>
    <entryRelationship typeCode="SUBJ"><observation classCode="OBS" moodCode="EVN">
      <templateId root="2.16.840.1.113883.10.20.22.4.4" extension="{CCDA_2015}"/>
      <id root="{DOCUMENT_ROOT}.{number}" extension="problem-{index}"/>
      <code code="55607006" codeSystem="{SNOMED}" displayName="Problem"/>
      <statusCode code="completed"/>
      <effectiveTime><low value="20250301"/></effectiveTime>
      <value xsi:type="CD" code="195967001" codeSystem="{SNOMED}" displayName="Asthma"/>
    </observation></entryRelationship>
  </act></entry>"""


def vital_signs(number: int = 1) -> str:
    """Return a vital signs section with one body height."""
    entry = f"""<entry typeCode="DRIV"><organizer classCode="CLUSTER" moodCode="EVN">
    <templateId root="2.16.840.1.113883.10.20.22.4.26" extension="{CCDA_2015}"/>
    <id root="{DOCUMENT_ROOT}.{number}" extension="vitals"/>
    <code code="46680005" codeSystem="{SNOMED}" displayName="Vital signs"/>
    <statusCode code="completed"/>
    <effectiveTime value="20251201"/>
    <component><observation classCode="OBS" moodCode="EVN">
      <templateId root="2.16.840.1.113883.10.20.22.4.27" extension="2014-06-09"/>
      <id root="{DOCUMENT_ROOT}.{number}" extension="height"/>
      <code code="8302-2" codeSystem="{LOINC}" displayName="Body height"/>
      <statusCode code="completed"/>
      <effectiveTime value="20251201"/>
      <value xsi:type="PQ" value="170" unit="cm"/>
    </observation></component>
  </organizer></entry>"""
    return _section("2.16.840.1.113883.10.20.22.2.4.1", CCDA_2015, "8716-3", "Vital signs", entry)


def allergies(number: int = 1, recorded: str = "20260102030405+0000") -> str:
    """Return an allergy section with one entry, written by a second author at `recorded`."""
    entry = f"""<entry typeCode="DRIV"><act classCode="ACT" moodCode="EVN">
    <templateId root="2.16.840.1.113883.10.20.22.4.30" extension="{CCDA_2015}"/>
    <id root="{DOCUMENT_ROOT}.{number}" extension="allergy-concern"/>
    <code code="CONC" codeSystem="2.16.840.1.113883.5.6"/>
    <statusCode code="active"/>
    <effectiveTime><low value="20240501"/></effectiveTime>
    <entryRelationship typeCode="SUBJ"><observation classCode="OBS" moodCode="EVN">
      <templateId root="2.16.840.1.113883.10.20.22.4.7" extension="2014-06-09"/>
      <id root="{DOCUMENT_ROOT}.{number}" extension="allergy"/>
      <code code="ASSERTION" codeSystem="2.16.840.1.113883.5.4"/>
      <statusCode code="completed"/>
      <effectiveTime><low value="20240501"/></effectiveTime>
      <value xsi:type="CD" code="419511003" codeSystem="{SNOMED}" displayName="Propensity to adverse reaction to drug"/>
      <author><time value="{recorded}"/><assignedAuthor>
        <id root="2.16.840.1.113883.4.6" extension="8888888888"/>
        <assignedPerson><name><given>Second</given><family>Author</family></name></assignedPerson>
        <representedOrganization><id root="1.2.840.99999.3" extension="ward"/><name>Example Ward</name>
        </representedOrganization>
      </assignedAuthor></author>
      <participant typeCode="CSM"><participantRole classCode="MANU"><playingEntity classCode="MMAT">
        <code code="7982" codeSystem="{RXNORM}" displayName="Penicillin"/>
      </playingEntity></participantRole></participant>
    </observation></entryRelationship>
  </act></entry>"""
    return _section("2.16.840.1.113883.10.20.22.2.6.1", CCDA_2015, "48765-2", "Allergies", entry)


def unmapped_section(template: str = "1.2.840.99999.4.1") -> str:
    """Return a section and an entry whose templates no converter maps."""
    entry = f"""<entry><observation classCode="OBS" moodCode="EVN">
    <templateId root="{template}.1"/><id root="1.2.840.99999.5" extension="unmapped"/>
    <code code="75326-9" codeSystem="{LOINC}"/><statusCode code="completed"/>
  </observation></entry>"""
    return _section(template, "", "75326-9", "Something else", entry)


def _section(template: str, extension: str, code: str, title: str, entries: str) -> str:
    version = f' extension="{extension}"' if extension else ""
    return f"""<component><section>
    <templateId root="{template}"{version}/>
    <code code="{code}" codeSystem="{LOINC}"/>
    <title>{title}</title><text>{title}</text>
    {entries}
  </section></component>"""


def entity_bomb(depth: int = 12) -> bytes:
    """Return a document whose title would expand to 10**depth words ("billion laughs")."""
    entities = '<!ENTITY e0 "ha">' + "".join(
        f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, depth + 1)
    )
    return with_doctype(f"<!DOCTYPE ClinicalDocument [{entities}]>", f"&e{depth};")


def external_entity(address: str) -> bytes:
    """Return a document whose title would be read from `address`."""
    return with_doctype(f'<!DOCTYPE ClinicalDocument [<!ENTITY e SYSTEM "{address}">]>', "&e;")


def with_doctype(doctype: str, title: str = "Summary 1") -> bytes:
    """Return a document with a document type declaration and another title."""
    declaration, rest = ccd().decode().split("\n", 1)
    return f"{declaration}\n{doctype}\n{rest.replace('Summary 1', title)}".encode()


def without_namespace() -> bytes:
    """Return a ClinicalDocument that is not in HL7's namespace."""
    return ccd().replace(b' xmlns="urn:hl7-org:v3"', b"")
