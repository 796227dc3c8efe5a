"""Is everything that has a name for users documented: errors, settings, tables, records, decisions?"""

from __future__ import annotations

import re
from importlib import import_module

import modelvault
from modelvault import errors
from modelvault.objects import payload, recipe, ref, template, tensor
from modelvault.repository.config import Config
from modelvault.store.base import FORMAT_VERSION, TABLES
from modelvault.store.lmdb_store import TABLE_BYTES

from .pages import ROOT

DOCS = ROOT / "docs"
FORMAT = (DOCS / "format" / "index.md").read_text()

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ModelVaultError) and value.__module__ == errors.__name__
]


def test_every_error_is_in_the_tree_and_explained() -> None:
    page = (DOCS / "reference" / "errors.md").read_text()
    for error in ERRORS:
        assert re.search(rf"^[├└│─ ]*{error.__name__} +{error.exit_code}$", page, re.MULTILINE), error.__name__
        assert f"| `{error.__name__}` |" in page, error.__name__
    named = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert named == {error.__name__ for error in ERRORS}


def test_every_setting_and_variable_is_documented() -> None:
    page = (DOCS / "reference" / "config.md").read_text()
    for key in Config._fields:
        assert f"| `{key}` |" in page
    source = "".join(file.read_text() for file in (ROOT / "modelvault").rglob("*.py"))
    variables = set(re.findall(r"(?<![A-Z_])MODELVAULT_[A-Z]+", source))
    assert variables == set(re.findall(r"^\| `(MODELVAULT_[A-Z]+)` \|", page, re.MULTILINE))


def test_every_public_name_is_documented() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    for name in modelvault.__all__:
        assert f"`{name}`" in page or f"modelvault.{name}(" in page, name
    api = import_module("modelvault.api")
    for member in vars(api.Vault):
        if not member.startswith("_"):
            assert f"| `{member}" in page or f"`, `{member}(" in page, member
    for field in api.CommitInfo._fields:
        assert f"`{field}`" in page, field


def test_every_table_is_specified_with_its_byte() -> None:
    for table in TABLES:
        assert f"| `{TABLE_BYTES[table].hex()}` | `{table}` |" in FORMAT, table


def test_every_record_kind_is_specified() -> None:
    kinds = {
        payload.KIND: "payload",
        tensor.KIND: "tensor",
        recipe.KIND: "recipe",
        ref.REF_KIND: "ref",
        ref.HEAD_KIND: "HEAD",
        ref.REFLOG_KIND: "reflog entry",
        template.KIND: "template",
    }
    for kind, name in kinds.items():
        assert f"| {kind} | {name} |" in FORMAT
    assert len(re.findall(r"^\| \d+ \| [\w ]+ \| `objects", FORMAT, re.MULTILINE)) == len(kinds)
    assert {module.VERSION for module in (recipe, ref, template)} == {1}
    for name, module in (("payload", payload), ("tensor", tensor)):
        assert f"| {name} | {module.VERSION} |" in (DOCS / "format" / "versions.md").read_text()


def test_every_template_event_is_specified() -> None:
    for kind in template.EventKind:
        assert f"| {kind.value} | {kind.name} |" in FORMAT


def test_the_format_version_has_a_row() -> None:
    page = (DOCS / "format" / "versions.md").read_text()
    rows = re.findall(r"^\| (\d+) \|", page, re.MULTILINE)
    assert rows == [str(version) for version in range(1, FORMAT_VERSION + 1)]
    assert f"Format version **{FORMAT_VERSION}**" in FORMAT


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    index = (DOCS / "decisions" / "README.md").read_text()
    for number, page in enumerate(pages, 1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number:04d}: ")
        assert page.name in index
        for heading in ("Context", "Options", "Choice", "Price"):
            assert f"\n## {heading}\n" in text, page.name
