"""The XHTML of a narrative."""

from __future__ import annotations

import pytest

from localaws.fhir.narrative import find_narrative_fault

XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'


@pytest.mark.parametrize(
    "div",
    [
        f"<div {XHTML}>text</div>",
        f'<div {XHTML}><p style="color: red">1 &lt; 2 &#160;</p><br/></div>',
        f'<div {XHTML}><img src="#x" alt="x"/></div>',
        f'<div {XHTML}><table><tbody><tr><td><a href="https://x.example">x</a></td></tr></tbody></table></div>',
        f"<h:div {XHTML.replace('xmlns', 'xmlns:h')}>text</h:div>",
    ],
)
def test_formatting_is_allowed(div: str) -> None:
    assert find_narrative_fault(div) is None


@pytest.mark.parametrize(
    ("div", "reason"),
    [
        (f"<div {XHTML}><p>x</div>", "well-formed"),
        ("plain text", "well-formed"),
        (f"<div {XHTML}>&nbsp;x</div>", "well-formed"),
        (f"<div {XHTML}>\ud800</div>", "well-formed"),
        (f"<div {XHTML}> </div>", "txt-2"),
        ("<div>x</div>", "xmlns"),
        (f"<p {XHTML}>x</p>", "xmlns"),
        (f"<div {XHTML}>x<script>alert(1)</script></div>", "txt-1"),
        (f'<div {XHTML} onclick="alert(1)">x</div>', "txt-1"),
        (f'<!DOCTYPE div [<!ENTITY a "{"x" * 99}">]><div {XHTML}>&a;&a;</div>', "document type"),
        (f'<!DOCTYPE div SYSTEM "file:///etc/passwd"><div {XHTML}>x</div>', "document type"),
    ],
)
def test_anything_else_is_not(div: str, reason: str) -> None:
    assert reason in str(find_narrative_fault(div))
