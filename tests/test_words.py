"""The words of the page's own controls: each that web/js asks for is there in every language."""

import json
import re

import support

JS = support.ROOT / "web" / "js"
WORDS = (JS / "words.js").read_text(encoding="utf-8")
LANGUAGES = json.loads(re.search(r"LANGUAGES = (\[.*?\]);", WORDS)[1])
TABLE = json.loads(re.sub(r",(\s*[}\]])", r"\1", re.search(r"WORDS = ({.*?\n});", WORDS, re.DOTALL)[1]))
ASKED = re.compile(r'\bword\(\s*((?:[^"(),]+\? )?"(?:[^"\\]|\\.)*"(?: : "(?:[^"\\]|\\.)*")?|LABEL)')
LABEL = "Open as nodes"  # web/js/studio.js asks for it by a name


def asked():
    """The texts that web/js asks for."""
    for path in sorted(JS.glob("*.js")):
        for found in ASKED.findall(path.read_text(encoding="utf-8").replace("export function word(", "")):
            yield from [LABEL] if found == "LABEL" else re.findall(r'"((?:[^"\\]|\\.)*)"', found)


def test_every_text_that_is_asked_for_is_in_the_table_and_no_other():
    assert set(asked()) == set(TABLE)
    calls = sum(p.read_text(encoding="utf-8").count("word(") for p in JS.glob("*.js")) - 1  # its own definition
    assert calls == len([*ASKED.findall("".join(p.read_text(encoding="utf-8") for p in sorted(JS.glob("*.js"))))])


def test_every_text_has_all_languages_and_the_same_places_for_values():
    assert LANGUAGES == ["zh", "ja", "de"]
    for text, others in TABLE.items():
        assert len(others) == len(LANGUAGES) and all(others), text
        assert {other.count("{}") for other in others} == {text.count("{}")}, text
        assert text not in others, text


def test_commands_are_named_in_every_language():
    pages = (JS / "pages.js").read_text(encoding="utf-8")
    labels = dict(re.findall(r'id: "([\w.]+)", label: "([^"]+)"', pages))
    for language in ("en", *LANGUAGES):
        path = support.ROOT / "locales" / language / "commands.json"
        found = {name: entry["label"] for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
        assert found.keys() == {name.replace(".", "_") for name in labels} and all(found.values())
        assert language != "en" or set(found.values()) == set(labels.values())
