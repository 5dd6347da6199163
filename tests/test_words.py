"""The words of the page's own controls: what web/js shows is asked for by `word`, and is there in every language."""

import json
import re

import pytest
import support

JS = support.ROOT / "web" / "js"
LOCALES = support.ROOT / "locales"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(JS.glob("*.js"))}
WORDS = SOURCES.pop("words.js")
LANGUAGES = json.loads(re.search(r"LANGUAGES = (\[.*?\]);", WORDS)[1])
TABLE = json.loads(re.sub(r",(\s*[}\]])", r"\1", re.search(r"WORDS = ({.*?\n});", WORDS, re.DOTALL)[1]))
GUIDES = re.findall(r'"([\w/.]+)": \{ id: "([\w.]+)", label: "([^"]+)"', SOURCES["pages.js"])
LABELS = {label for _, _, label in GUIDES}  # the page looks for them in locales

# Comments, style sheets, imports, the developer's console and regular expressions; strings before them stay.
NOT_SHOWN = re.compile(
    r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/|STYLE = `.*?`;|^import [^;]*;|console\.\w+\([^\n]*'
    r"|(?:(?<=[(!])|(?<=[(,!&|=] ))/(?![/*])(?:[^/\\\n]|\\.)+/\w*",
    re.DOTALL | re.MULTILINE,
)
VALUE = re.compile(r"\$\{((?:[^{}`]|\{\}|`[^`$]*`)*)\}")  # in a template
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`([^`]*)`')
PROSE = re.compile(r"[A-Za-z]{2,}[:,.;]? | [A-Za-z]{2,}|^[A-Z][a-z]+$")
TEXT_FOLLOWS = re.compile(r'(?:textContent|[tT]itle|label"?|tooltip|summary|detail|content)(?: =|:) $|fail\($|\}, $')
STYLE_FOLLOWS = re.compile(r"(?:\bclass|\bstyle|margin|icon): (?:\w+ \? )?$|(?:clipPath|className) = $")
# Where no language counts: a node's class, a menu of the page's, what the server tells, the name of a widget.
NAMES = {
    ("curve_query.js", "Reroute"),
    ("pages.js", "Help"),
    ("report_outer.js", "expected: "),
    ("studio.js", "Open as nodes"),
}


def literals(code):
    """(text, the code before it) of each string, with {} in the place of each value."""
    while value := VALUE.search(code):
        yield from literals(value[1])
        code = f"{code[: value.start()]}{{}}{code[value.end() :]}"
    for found in LITERAL.finditer(code):
        yield found[1] if found[1] is not None else found[2], code[: found.start()]


def is_asked_for(before):
    """Whether what comes next is an argument of `word`."""
    depth = 0
    for at in range(len(before) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[at], 0)
        if depth < 0:
            return bool(re.search(r"\bword$", before[:at]))
    return False


def shown(source):
    """(text, whether `word` is asked for it) of each that a person may see."""
    for text, before in literals(NOT_SHOWN.sub(lambda found: found[1] or "", source)):
        near = before[-40:]
        if not re.search("[A-Za-z]{2}", text.replace("{}", "")) or STYLE_FOLLOWS.search(near):
            continue
        asked = is_asked_for(before)
        if asked or PROSE.search(text) or TEXT_FOLLOWS.search(near):
            yield text, asked


@pytest.mark.parametrize("name", SOURCES)
def test_every_text_is_asked_for_in_the_pages_language(name):
    unasked = {text for text, asked in shown(SOURCES[name]) if not asked}
    assert unasked - LABELS == {text for file, text in NAMES if file == name}


@pytest.mark.parametrize(
    "code, text",
    [
        ('label.textContent = "more";', "more"),
        ('made("div", { class: "line" }, "more")', "more"),
        ('made("div", { title: `${num} more` })', "{} more"),
        ('told = isOpen ? `open, ${list.map((one) => `${one} more`)}` : word("shut");', "open, {}"),
        ('told = `${isOpen ? "Open" : ""}`; // "No"', "Open"),
        ('reply(word("shut"), "Not open");', "Not open"),
    ],
)
def test_text_that_is_not_asked_for_is_found(code, text):
    assert text in {text for text, asked in shown(code) if not asked}


def test_table_has_what_is_asked_for_and_no_more():
    assert {text for source in SOURCES.values() for text, asked in shown(source) if asked} == set(TABLE)


def test_every_text_has_all_languages_and_the_same_places_for_values():
    assert LANGUAGES == ["zh", "ja", "de"]
    for text, others in TABLE.items():
        assert len(others) == len(LANGUAGES) and all(others), text
        assert {other.count("{}") for other in others} == {text.count("{}")}, text
        assert text not in others, text
        assert not re.search("[a-z]{2}", re.sub("Sigma|ComfyUI", "", "".join(others[:2]))), text


def title(path):
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_guides_have_names_in_every_language_for_menu_and_commands(language):
    commands, main = (
        json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8")) for name in ("commands", "main")
    )
    labels = main.pop("menuLabels")
    assert main == {} and labels.keys() == LABELS
    assert commands == {command.replace(".", "_"): {"label": labels[label]} for _, command, label in GUIDES}
    for path, _, label in GUIDES:
        page = support.ROOT / "web" / "docs" / path
        assert label == f"Chroma: {title(page)}"
        translated = page.with_suffix("") / f"{language}.md"
        assert not translated.exists() or labels[label] == f"Chroma：{title(translated)}"
