"""README, docs/, help pages and guides: complete, linked, and true to the nodes, the errors and the measured tables.

Conventions of the pages that are checked here:
- the table under "## Inputs" has a column `default; range`; several inputs of the same may share a row;
- a dynamic choice's own inputs stand somewhere as `name` (default) or `name` (default; low to high);
- a figure from benchmarks/results is followed by <!--file: row @ column-->, and has that cell's value, rounded as it likes
  (CHROMA_PACK_WRITE=1 writes the values of today's tables into the pages, in the form that they have);
- a text in code font in the first column under "## Texts of errors" is part of an error in the sources;
- the page NAME.md in another language is NAME/LANGUAGE.md: section by section it has the same tables, numbers, code,
  figures and links (to pages in that language), and it calls nodes and inputs as locales/LANGUAGE does.
"""

import ast
import asyncio
import json
import os
import re
from collections import Counter

import archive
import pytest
import support

from benchmarks.__main__ import NAMES as BENCHMARKS

ROOT = support.ROOT
DOCS = ROOT / "web" / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
LAST_LINE = "Guides: [Which file, which settings?](guides/which_settings.md) | [Something looks wrong](guides/something_looks_wrong.md)"
PARTS = (("Inputs",), ("Pitfalls", "If it fails"), ("Source", "Sources"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FIGURE = re.compile(r"(-?\d+(?:\.\d+)?(?:e-\d+)?)?(?: ?%)?<!--(.*?)-->")
SOURCES = ("advice", "chroma_model", "host", "loaders", "nodes", "prompts", "samplers", "tables")
ERRORS = "Texts of errors"


def node_ids():
    """Node ids, from every `node_id="..."` in nodes/; not of parts, which menus do not show."""
    schemas = (
        {keyword.arg: keyword.value for keyword in call.keywords}
        for path in (ROOT / "nodes").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
    )
    shown = (schema for schema in schemas if "is_dev_only" not in schema)
    return sorted(s["node_id"].value for s in shown if isinstance(s.get("node_id"), ast.Constant))


NODES = node_ids()
README = ROOT / "README.md"
ENGLISH = [*sorted(DOCS.glob("*.md")), *GUIDES]
LANGUAGES = ("zh",)


def translation(path, language):
    return path.with_suffix("") / f"{language}.md"


TRANSLATIONS = [(path, language) for language in LANGUAGES for path in ENGLISH]
PAGES = [*ENGLISH, *(path for pair in TRANSLATIONS if (path := translation(*pair)).is_file())]
FRONT = [README, *sorted((ROOT / "docs").glob("*.md"))]  # what a visitor of the repository reads


def name_of(path):
    """A page's path below web/docs or the repository, for a test's name."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).with_suffix("").as_posix()


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
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^##? {re.escape(title)}$(.*?)(?=^##? |\Z)", text, re.M | re.S)
    return found[1] if found else ""


def test_pages_are_those_of_the_nodes():
    assert NODES == sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("node", NODES)
def test_page_has_its_parts(node):
    headings = re.findall(r"^## (.*)$", page(node), re.M)
    missing = [names[0] for names in PARTS if not set(names) & set(headings)]
    assert not missing, f"{node}.md has no {', '.join(missing)}"


@pytest.mark.parametrize("node", NODES)
def test_page_begins_with_what_it_is_for_then_inputs_then_when_to_use_it(node):
    title, opening, *_ = page(node).split("\n\n")
    assert title.startswith("# ") and len(re.findall(r"[.?!](?=\s|$)", opening)) <= 2, opening
    headings = re.findall(r"^## (.*)$", page(node), re.M)
    assert page(node).split("\n\n")[2] == "## Inputs"
    assert [name for name in headings if name != "Outputs"][:2] == ["Inputs", "When to use it"]


@pytest.mark.parametrize("node", NODES)
def test_page_ends_with_links_to_the_guides(node):
    assert page(node).splitlines()[-1] == LAST_LINE


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_to_pages(path):
    """What is served is web/ alone, so that links have to stay below web/docs."""
    for target in LINK.findall(path.read_text()):
        if not target.startswith("https://"):
            found = (path.parent / target).resolve()
            assert found.is_file() and found.is_relative_to(DOCS), target


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_rows_of_tables_have_as_many_cells_as_the_head(path):
    for head, rows in tables(path.read_text()):
        assert {len(row) for row in rows} <= {len(head)}, head


def measured(name):
    """(row, column) -> cell of every table of a file of benchmarks/results; of equal ones the first counts. Rows may be bold."""
    found = {}
    for head, rows in tables((ROOT / "benchmarks" / "results" / f"{name}.md").read_text()):
        for row in rows:
            for column, cell in zip(head[1:], row[1:]):
                for n in (1, 2, 3):  # several, where first cells repeat
                    found.setdefault((", ".join(row[:n]).replace("**", ""), column), cell)
    return found


@pytest.mark.parametrize("path", [*PAGES, *FRONT], ids=name_of)
def test_figures_are_those_of_the_tables(path):
    text = path.read_text()
    if os.environ.get("CHROMA_PACK_WRITE"):
        text = FIGURE.sub(lambda found: found[0].replace(found[1], as_told(*found.groups())[0], 1), text)
        path.write_text(text)
    for told, where in FIGURE.findall(text):
        value, cell = as_told(told, where)
        assert told == value, f"{path.name}: {told} is not {cell}, {where}"


def as_told(told, where):
    """The cell that a mark names, in the form of a figure, and as it stands in the table."""
    name, _, place = where.partition(": ")
    row, _, column = place.partition(" @ ")
    cell = measured(name)[row, column]
    mantissa, _, exponent = told.partition("e")
    form = f".{len(mantissa.partition('.')[2])}{'e' if exponent else 'f'}"
    return f"{float(cell.rstrip('%')):{form}}", cell


@pytest.mark.parametrize(
    "name, title",
    [
        ("README", "What it does, and what the usual way costs"),
        ("docs/precision", "Which precision?"),
        *(("docs/measured", title) for title in ("Time beside other programs", "The same result")),
        *(("docs/measured", title) for title in ("Weights by storage", "Loading", "Guidance", "Hardness")),
    ],
)
def test_every_number_in_measured_tables_has_its_source(name, title):
    """Beside the first column, which says what is compared."""
    found = list(tables(section((ROOT / f"{name}.md").read_text(), title)))
    assert found
    for _, rows in found:
        for row in rows:
            for cell in row[1:]:
                words = FIGURE.sub("", cell)
                assert not re.search(r"(?<![A-Za-z_\d])\d", words), f"{cell!r} in the row {row[0]!r}"


# --- pages in other languages ----------------------------------------------------------------------------------------

CODE_BLOCK = re.compile(r"^```$.*?^```$|^ {4,}[^\n]*$", re.M | re.S)
CODE = re.compile(r"`([^`]+)`")
NUMBER = re.compile(r"(?<![A-Za-z_\d.])\d+(?:[.,]\d+)*")  # not those within a name: fp8, FLUX.1


def facts(path):
    """For each section of a page its heading and what a translation keeps of it: kind -> values.

    Links are given as the English pages that they lead to.
    """
    found = []
    for text in re.split(r"^(?=#+ )", path.read_text(), flags=re.M)[1:]:
        heading, text = text.split("\n", 1)
        lines = [line.strip() for block in CODE_BLOCK.findall(text) for line in block.splitlines()]
        blocks = [re.split(" {3,}", line)[0] for line in lines]  # without remarks beside the code
        prose = CODE_BLOCK.sub("", text)
        figures = [where for _, where in FIGURE.findall(prose)]
        prose = re.sub(r"<!--.*?-->", "", prose)
        code = [" ".join(words.split()) for words in CODE.findall(prose)]
        prose = CODE.sub("", prose)
        targets = [target_in_english(path, target) for target in LINK.findall(prose)]
        numbers = NUMBER.findall(LINK.sub(lambda link: link[0].partition("](")[0], prose))
        shapes = [f"{len(head)} columns, {len(rows)} rows" for head, rows in tables(text)]
        told = {
            "heading": [heading.split()[0]],
            "tables": shapes,
            "code": blocks + code,
            "figures": figures,
            "links": targets,
            "numbers": numbers,
        }
        found.append((heading, {kind: sorted(values) for kind, values in told.items()}))
    return found


def target_in_english(path, target):
    """A link's target: of one to a page in the linking page's language, the English page below web/docs."""
    if target.startswith("https://"):
        return target
    page = (path.parent / target).resolve()
    same = path.stem in LANGUAGES and page.stem == path.stem
    return name_of(page.parent if same else page) + ("" if same or path.stem not in LANGUAGES else ", in English")


def differences(here, there):
    """What of each kind is in one list alone, as words."""
    for kind in here:
        for values, what in (
            (Counter(here[kind]) - Counter(there[kind]), "lacks"),
            (Counter(there[kind]) - Counter(here[kind]), "has, which the English page has not,"),
        ):
            if values:
                yield f"{what} {kind}: {', '.join(map(repr, values.elements()))}"


@pytest.mark.parametrize(
    "path, language", TRANSLATIONS, ids=lambda value: value if value in LANGUAGES else name_of(value)
)
def test_translation_is_in_step_with_the_english_page(path, language):
    other = translation(path, language)
    assert other.is_file(), f"{name_of(path)} has no page {name_of(other)}.md"
    here, there = facts(path), facts(other)
    behind = [
        f"under {heading} ({own})" + "".join(f"\n  {what}" for what in differences(told, others))
        for (heading, told), (own, others) in zip(here, there)
        if told != others
    ]
    assert len(here) == len(there), f"{name_of(other)}.md has {len(there)} headings, the English page {len(here)}"
    assert not behind, "\n".join([f"{name_of(other)}.md is behind the English page:", *behind])


def locale(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_translation_calls_node_and_inputs_as_the_locale_does(node, language):
    english, own = locale("en")[node], locale(language)[node]
    text = translation(DOCS / f"{node}.md", language).read_text()
    title = own["display_name"]
    if title != english["display_name"]:
        title += f"（{english['display_name']}）"
    assert text.splitlines()[0] == f"# {title}"
    ids = {}
    for name, told in english["inputs"].items():
        ids.setdefault(told.get("name", name), name)
    (_, told), *_ = tables(text)
    (_, rows), *_ = tables(section(page(node), "Inputs"))
    wanted = ["、".join(own["inputs"][ids[name]]["name"] for name in row[0].split(", ")) for row in rows]
    assert [row[0] for row in told] == wanted
    rest = {name: english["inputs"][name].get("name", name) for name in english["inputs"]}
    for name in {ids[shown] for row in rows for shown in row[0].split(", ")}:
        del rest[name]
    for name, code in rest.items():  # of a dynamic choice: after the name that the node shows
        shown, code = own["inputs"][name]["name"], code.replace(" ", "_")
        if shown != code and not re.search(r"\d", shown):
            assert f"“{shown}” `{code}`" in text, f"no “{shown}” `{code}`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_of_pages_that_are_there(language):
    pages = set(DOCS.glob(f"**/{language}.md"))
    assert pages <= {translation(path, language) for path in ENGLISH}


def test_the_page_in_the_browser_knows_the_languages():
    told = re.search(r"^const LANGUAGES = (\[.*?\]);", (ROOT / "web" / "js" / "pages.js").read_text(), re.M)[1]
    assert tuple(json.loads(told)) == LANGUAGES


# --- README and docs/ ------------------------------------------------------------------------------------------------

ANY_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # of pictures too
IN_REPOSITORY = "an installed copy does not have"  # a page says so of its links to what the package leaves out


def anchors(path):
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path):
    """(target, file, anchor) of every link that leads to a place in the repository."""
    text = re.sub(r"`[^`\n]*`|^    .*$", "", path.read_text(), flags=re.M)  # without code
    for target in ANY_LINK.findall(text):
        if not re.match(r"https?://", target):
            name, _, anchor = target.partition("#")
            yield target, (path.parent / name).resolve() if name else path, anchor


def test_every_link_leads_to_a_file_of_the_repository():
    files = [ROOT / name for name in archive.files()]
    known = {*files, *(folder for file in files for folder in file.parents)}
    for page in files:
        if page.suffix == ".md":
            for target, path, anchor in links(page):
                assert path in known and (not anchor or anchor in anchors(path)), f"{page}: {target}"


def test_links_of_a_packed_page_lead_into_the_package_or_it_says_where_they_lead():
    packed = {ROOT / name for name in archive.packed()}
    assert set(FRONT) <= packed
    for path in sorted(packed):
        if path.suffix == ".md":
            outside = [target for target, file, _ in links(path) if file not in packed]
            if path == README or outside:
                assert outside == [] if path == README else IN_REPOSITORY in path.read_text(), f"{path}: {outside}"


@pytest.mark.parametrize("path", FRONT, ids=lambda path: path.stem)
def test_a_paragraph_is_one_line(path):
    lines = path.read_text().splitlines()
    for above, line in zip(lines, lines[1:]):
        plain = [part and not re.match(r"[|#!-]|    |\d+\. ", part) for part in (above, line)]
        assert not (plain[1] and (plain[0] or above.startswith(("-", "1")))), f"broken before {line[:60]!r}"


def test_every_node_and_every_template_is_in_the_list():
    text = (ROOT / "docs" / "nodes.md").read_text()
    assert [node for node in NODES if f"(../web/docs/{node}.md)" not in text] == []
    templates = [path.stem for path in (ROOT / "example_workflows").glob("*.json")]
    assert [name for name in templates if not re.search(rf"\b{name}\b", section(text, "Templates"))] == []


def test_every_table_has_its_command():
    """On README's page of figures; a table that is not kept yet is named there, and may be made."""
    page = ROOT / "docs" / "measured.md"
    ((_, rows),) = tables(section(page.read_text(), "To make a table again"))
    told = {name for row in rows for name in re.findall(r"\w+", re.sub(r"\]\([^)]*\)", "", row[0]))}
    linked = {path for _, path, _ in links(page)}
    assert set(BENCHMARKS) <= told
    assert [
        path for path in (ROOT / "benchmarks" / "results").glob("*.md") if not {path, path.stem} & (linked | told)
    ] == []


def test_presets_are_told_as_they_are():
    presets = support.dev.load_pack("advice.presets")
    told = {row[0]: row for _, rows in tables(section(page("ChromaPreset"), "Presets")) for row in rows}
    for name, preset in presets.PRESETS.items():
        if name not in presets.FLUXES:  # which share a row
            steps, cfg, sampler = (cell.split()[0] for cell in told[name][1:4])
            assert (int(steps), float(cfg), sampler) == (preset.steps, preset.cfg, preset.sampler), name
            assert told[name][6].startswith(f"{preset.size}"), name
            assert all(f"{field} our guess" in told[name][7] for field in preset.grades), name


def test_everything_that_a_run_writes_into_a_picture_is_told():
    record = support.dev.load_pack("samplers.run_record").RunRecord(cfg=3, steps=2, notes=["a note"])
    told = CODE.findall(section(page("ChromaRunReport"), "What it writes"))
    assert set(record.facts()) <= set(told)


def test_every_room_is_described():
    text = section((ROOT / "CONTRIBUTING.md").read_text(), "The map")
    rooms = {name.split("/")[0] for name in archive.files() if "/" in name}
    assert [room for room in sorted(rooms) if f"`{room}/" not in text] == []


def test_readme_offers_the_files_that_its_template_names():
    workflow = json.loads((ROOT / "example_workflows" / "chroma_text_to_image.json").read_text())
    named = {file["url"] for node in workflow["nodes"] for file in node.get("properties", {}).get("models", ())}
    assert len(named) == 3 and named == set(re.findall(r"\((https://[^)]*\.safetensors)\)", README.read_text()))


def test_readme_has_the_test_command_that_ci_calls():
    assert re.search(r"^    python dev\.py test\b", README.read_text(), re.M)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec python3 dev.py test"


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
        if node.define_schema().is_dev_only:  # a part of another node, which menus do not show
            continue
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
    found = re.findall(rf"`{name}` \(((?:[^()]|\([^()]*\))*)\)", text)
    if "default" not in options:  # a socket
        assert f"`{name}`" in text, f"{node}: no `{name}`"
        return
    wanted = written(options["default"])
    both = f"{wanted}; {span(options)}" if "min" in options else wanted
    assert wanted in found or both in found, f"{node}: `{name}` is {found}, expected ({both})"
