"""The help pages and the guides: complete, linked, and true to the nodes, the errors and the measured tables.

Conventions of the pages that are checked here:
- the table under "## Inputs" has a column `default; range`; several inputs of the same may share a row;
- a dynamic choice's own inputs stand somewhere as `name` (default) or `name` (default; low to high);
- a figure from benchmarks/results is followed by <!--file: row @ column-->, and has that cell's value, rounded as it likes;
- a text in code font in the first column under "## Texts of errors" is part of an error in the sources.
"""

import ast
import asyncio
import json
import re

import pytest
import support

ROOT = support.ROOT
DOCS = ROOT / "web" / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
LAST_LINE = "Guides: [Which file, which settings?](guides/which_settings.md) | [Something looks wrong](guides/something_looks_wrong.md)"
PARTS = (("Inputs",), ("Pitfalls", "If it fails"), ("Source", "Sources"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"(-?\d+(?:\.\d+)?(?:e-\d+)?)?(?: ?%)?<!--(.*?)-->")
SOURCES = ("advice", "chroma_model", "host", "loaders", "nodes", "prompts", "samplers")
ERRORS = "Texts of errors"


def node_ids():
    """Node ids, from every `node_id="..."` in nodes/."""
    return sorted(
        keyword.value.value
        for path in (ROOT / "nodes").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "node_id"
        if isinstance(keyword.value, ast.Constant)
    )


NODES = node_ids()
README = ROOT / "README.md"
PAGES = [*sorted(DOCS.glob("*.md")), *GUIDES]


def page(node):
    path = DOCS / f"{node}.md"
    return path.read_text() if path.is_file() else ""


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text):
    """Every Markdown table, as its head and its rows."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if re.fullmatch(r"\|[-| ]+\|", line):
            rest = lines[i + 1 :]
            end = next((n for n, row in enumerate(rest) if not row.startswith("|")), len(rest))
            yield cells(lines[i - 1]), [cells(row) for row in rest[:end]]


def section(text, title):
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def test_pages_are_those_of_the_nodes():
    assert NODES == sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("node", NODES)
def test_page_has_its_parts(node):
    headings = re.findall(r"^## (.*)$", page(node), re.M)
    missing = [names[0] for names in PARTS if not set(names) & set(headings)]
    assert not missing, f"{node}.md has no {', '.join(missing)}"


@pytest.mark.parametrize("node", NODES)
def test_page_ends_with_links_to_the_guides(node):
    assert page(node).splitlines()[-1] == LAST_LINE


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_to_pages(path):
    """What is served is web/ alone, so that links have to stay below web/docs."""
    for target in LINK.findall(path.read_text()):
        if not target.startswith("https://"):
            found = (path.parent / target).resolve()
            assert found.is_file() and found.is_relative_to(DOCS), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_rows_of_tables_have_as_many_cells_as_the_head(path):
    for head, rows in tables(path.read_text()):
        assert {len(row) for row in rows} <= {len(head)}, head


def measured(name):
    """(row, column) -> cell of every table of a file of benchmarks/results; of equal ones the first counts."""
    found = {}
    for head, rows in tables((ROOT / "benchmarks" / "results" / f"{name}.md").read_text()):
        for row in rows:
            for column, cell in zip(head[1:], row[1:]):
                found.setdefault((row[0], column), cell)
                found.setdefault((f"{row[0]}, {row[1]}", column), cell)  # where first cells repeat
    return found


@pytest.mark.parametrize("path", [*PAGES, README], ids=lambda path: path.stem)
def test_figures_are_those_of_the_tables(path):
    for told, where in FIGURE.findall(path.read_text()):
        name, _, place = where.partition(": ")
        row, _, column = place.partition(" @ ")
        cell = measured(name)[row, column]
        mantissa, _, exponent = told.partition("e")
        form = f".{len(mantissa.partition('.')[2])}{'e' if exponent else 'f'}"
        assert told == f"{float(cell.rstrip('%')):{form}}", f"{path.name}: {told} is not {cell}, {where}"


@pytest.mark.parametrize("title", ["Which precision?", "Measured"])
def test_every_number_in_readmes_tables_has_its_source(title):
    """Beside the first column, which says what is compared."""
    for _, rows in tables(section(README.read_text(), title)):
        for row in rows:
            for cell in row[1:]:
                words = FIGURE.sub("", cell)
                assert not re.search(r"(?<![A-Za-z_\d])\d", words), f"{cell!r} in the row {row[0]!r}"


def texts_of_sources():
    """Every text in the sources, with a \\0 where a value is put in."""
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_quoted_errors_are_in_the_sources():
    sources = list(texts_of_sources())
    rows = [row for guide in GUIDES for _, rows in tables(section(guide.read_text(), ERRORS)) for row in rows]
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row[0])]
    assert len(quoted) > 30
    for text in quoted:
        pattern = re.compile(re.escape(text).replace(re.escape("..."), ".*"), re.S)
        assert any(pattern.search(source) for source in sources), f"no error says: {text}"


def test_templates_that_the_guides_name_are_there():
    names = {path.stem for path in (*(ROOT / "example_workflows").glob("*.json"), *ROOT.glob("*.py"))}
    for guide in GUIDES:
        told = set(re.findall(r"\bchroma_[a-z_]+\b(?<!chroma_res_)", guide.read_text()))
        assert {name for name in told if not name.startswith("chroma_res")} <= names


def written(value):
    """A default as the pages write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value == "":
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def span(options):
    top = options["max"]
    return f"{written(options['min'])} to {'2^64 - 1' if top == 2**64 - 1 else written(top)}"


@pytest.fixture(scope="module")
def schemas(comfy):
    """Node id -> its inputs, (id, display name, options) with the default in them; dynamic ones' own under (id, "")."""
    extension = support.dev.load_pack("nodes").ChromaExtension()
    found = {}
    for node in asyncio.run(extension.get_node_list()):
        inputs = json.loads(json.dumps(node.define_schema().get_v1_info(node).input, default=str))
        found[node.define_schema().node_id] = [
            (name, *spec) for part in ("required", "optional") for name, spec in inputs.get(part, {}).items()
        ]
    return found


@pytest.mark.host
def test_every_node_that_is_registered_has_a_page(schemas):
    assert sorted(schemas) == NODES


@pytest.mark.host
@pytest.mark.parametrize("node", NODES)
def test_page_tells_every_input_with_default_and_range(node, schemas):
    text = page(node)
    (head, rows), *_ = tables(section(text, "Inputs"))
    told = {name.strip(): row[-1] for row in rows for name in row[0].split(",")}
    for name, kind, *more in schemas[node]:
        options = more[0] if more else {}
        shown = options.get("display_name") or name
        assert shown in told, f"{node}: no row of {shown}"
        choices = options.get("options") or []
        default = options.get("default")
        if default is None and kind == "COMFY_DYNAMICCOMBO_V3":
            default = choices[0]["key"]
        if default is not None:
            wanted = f"{written(default)}; {span(options)}" if "min" in options else written(default)
            assert told[shown] == wanted, f"{node}: {shown}"
        for choice in (one for one in choices if isinstance(one, dict)):
            for specs in choice["inputs"].values():
                for inner, (_, own) in specs.items():
                    check_inner(node, text, inner, own)


def check_inner(node, text, name, options):
    """One input of a dynamic choice: `name` (default; range), the range being left out if one likes."""
    found = re.findall(rf"`{name}` \(([^)]*)\)", text)
    if "default" not in options:  # a socket
        assert f"`{name}`" in text, f"{node}: no `{name}`"
        return
    wanted = written(options["default"])
    both = f"{wanted}; {span(options)}" if "min" in options else wanted
    assert wanted in found or both in found, f"{node}: `{name}` is {found}, expected ({both})"
