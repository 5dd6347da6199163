"""What a user downloads: the archive's files, the project's facts, the workflows that publish it, and older hosts."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile

import archive
import pytest
import support

FOLDERS = (
    *(
        "advice",
        "chroma_model",
        "docs",
        "example_workflows",
        "host",
        "loaders",
        "nodes",
        "prompts",
        "samplers",
        "tables",
        "tools",
    ),
    *("web/docs", "web/js"),
)
WHERE_PRESENT = ("locales", "subgraphs")  # folders that the host looks for
FILES = (
    *(
        "CHANGELOG.md",
        "LICENSE",
        "NOTICE",
        "README.md",
        "__init__.py",
        "chroma_api.py",
        "constants.py",
        "pyproject.toml",
    ),
    *("quantize.py", "requirements.txt"),
)
OWN = ("benchmarks", "demo", "dev", "tests")  # not in the archive
MAX_ARCHIVE_BYTES = 2_000_000  # the demo's weights alone would be 8.8 MB
MAX_PATH = 140  # of Windows' 260, of which a long user name, ComfyUI and custom_nodes take up to 110
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
BINARY = (".gguf", ".jpg", ".png", ".safetensors")
WORKFLOWS = sorted((support.ROOT / ".github" / "workflows").glob("*.yml"))
pack = support.dev.load_pack()


def text(name):
    return (support.ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def project():
    return pytest.importorskip("tomllib").loads(text("pyproject.toml"))  # of Python 3.11


# --- the archive -----------------------------------------------------------------------------------------------------


def test_every_rule_of_the_archive_is_anchored_and_leaves_something_out():
    names = archive.files()
    for rule in archive.ignored():
        assert rule.startswith("/") and not set(rule) & set("*?[!\\"), f"{rule} would match in other folders too"
        assert any(archive.is_ignored(name, rule) for name in names), f"{rule} matches nothing"


def test_archive_holds_what_a_user_needs_and_nothing_else():
    packed = archive.packed()
    assert {name for name in packed if "/" not in name} == set(FILES)
    assert {name.split("/")[0] for name in packed if "/" in name} <= {
        f.split("/")[0] for f in (*FOLDERS, *WHERE_PRESENT)
    }
    for folder in FOLDERS:
        assert any(name.startswith(f"{folder}/") for name in packed), f"{folder} is not in the archive"
    inside = tuple(f"{folder}/" for folder in (*FOLDERS, *WHERE_PRESENT))
    assert {name for name in archive.files() if name.startswith(inside)} <= set(packed)


def test_archive_is_small(tmp_path):
    path = archive.write(tmp_path / "node.zip")
    assert path.stat().st_size < MAX_ARCHIVE_BYTES
    assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".safetensors")]


def test_code_of_the_archive_uses_nothing_that_is_left_out():
    for name in archive.packed():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(text(name))):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module or a.name for a in node.names]
                assert not {m.split(".")[0] for m in modules} & set(OWN), name


# --- file systems ----------------------------------------------------------------------------------------------------


def test_file_names_are_possible_on_every_system():
    names = archive.files()
    assert len({name.lower() for name in names}) == len(names)  # Windows and macOS tell no case apart
    for name in names:
        assert len(name) <= MAX_PATH and name.isascii() and not set(name) & set('<>:"|?*\\'), name
        for part in name.split("/"):
            assert not RESERVED.match(part) and not part.endswith((".", " ")), name


def test_text_files_have_unix_line_ends():
    for name in archive.files():
        if not name.endswith(BINARY) and not name.startswith("tests/corpus/"):
            assert b"\r" not in (support.ROOT / name).read_bytes(), name
    attributes = text(".gitattributes").splitlines()
    assert attributes[0] == "* text=auto eol=lf"  # or git on Windows changes them
    assert {f"*{suffix} binary" for suffix in BINARY} <= set(attributes)


# --- the project's facts ---------------------------------------------------------------------------------------------


def test_project_and_requirements_name_the_same_packages(project):
    lines = [line for line in text("requirements.txt").splitlines() if line and not line.startswith("#")]
    assert sorted(project["project"]["dependencies"]) == sorted(lines)


def test_extras_have_a_lowest_version(project):
    extras = project["project"]["optional-dependencies"]
    assert extras.keys() == {"parquet", "ray"}
    assert all(re.fullmatch(r"[a-z]+>=[\d.]+(,<\d+)?", line) for lines in extras.values() for line in lines)


def test_project_has_what_the_registry_demands(project):
    facts, comfy = project["project"], project["tool"]["comfy"]
    name = r"[a-z]+([-_.][a-z0-9]+)*"  # no digit or sign first, no two signs, without ComfyUI in it
    assert re.fullmatch(name, facts["name"]) and len(facts["name"]) < 100 and "comfyui" not in facts["name"].lower()
    assert re.fullmatch(r"\d+\.\d+\.\d+", facts["version"])
    assert facts["license"] == {"text": "Apache-2.0"} and "Apache License" in text("LICENSE")[:200]
    assert "dynamic" not in facts and "web" not in comfy  # the host would serve `web` under the project's name too
    assert comfy["requires-comfyui"] == f">={pack.REQUIRED_HOST}"
    assert pack.REQUIRED_HOST.startswith(".".join(map(str, support.dev.MIN_HOST)))
    named = re.findall(r'^(\w+) = "" # PLACEHOLDER: .*$', text("pyproject.toml"), re.MULTILINE)
    wanted = {**facts["urls"], **{key: comfy[key] for key in ("PublisherId", "Icon", "Banner")}}
    assert {key for key, value in wanted.items() if not value} == set(named)
    for key in ("Repository", "Icon", "Banner"):
        assert wanted[key] == "" or wanted[key].startswith("https://"), key
    for key in ("Icon", "Banner"):
        assert wanted[key] == "" or wanted[key].endswith(f"/.github/{key.lower()}.png"), key


def test_icon_and_banner_have_the_registrys_shape():
    image = pytest.importorskip("PIL.Image")
    icon, banner = (image.open(support.ROOT / ".github" / f"{n}.png") for n in ("icon", "banner"))
    assert max(icon.size) <= 400 and icon.width == icon.height
    assert banner.width * 9 == banner.height * 21


def test_changelog_begins_with_the_version(project):
    assert re.search(r"^## (.+)$", text("CHANGELOG.md"), re.MULTILINE)[1] == project["project"]["version"]


def test_security_names_files_that_are_there_and_ruff_has_its_rules(project):
    named = re.findall(r"`((?:loaders|nodes|tests|web)/[\w./]+)`", text("SECURITY.md"))
    assert len(named) > 10 and all((support.ROOT / name).exists() for name in named)
    assert "S" in project["tool"]["ruff"]["lint"]["select"]


def test_every_file_of_requirements_is_audited_and_security_says_so():
    workflow, told = text(".github/workflows/test.yml"), " ".join(text("SECURITY.md").split())
    commands = re.findall(r"- run: (pip-audit [^#\n]*[^#\s])", workflow)
    assert all(command in told for command in commands)
    named = {name for command in commands for name in re.findall(r"-r (\S+)", command)}
    assert named == {path.name for path in support.ROOT.glob("requirements*.txt")}
    pins = [line for line in text("requirements-dev.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", line) for line in pins)  # what --no-deps demands


# --- GitHub's workflows ----------------------------------------------------------------------------------------------


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def test_workflows_are_sound(workflow):
    assert set(workflow) <= {"name", "on", True, "permissions", "concurrency", "jobs"}  # YAML 1.1 reads `on` as true
    for job in workflow["jobs"].values():
        assert ("steps" in job) != ("uses" in job)
        assert "uses" in job or job["runs-on"]
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        if "uses" in job:
            assert (support.ROOT / job["uses"]).is_file()
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", step.get("uses", "a/b@v1"))
    ids = {step["id"] for step in steps(workflow) if "id" in step}
    assert set(re.findall(r"steps\.(\w+)\.", str(workflow))) <= ids
    assert re.findall(r"secrets\.(\w+)", str(workflow)) in ([], ["REGISTRY_ACCESS_TOKEN"])


def test_tests_run_on_all_three_systems():
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load(text(".github/workflows/test.yml"))["jobs"]["test"]
    assert [name.split("-")[0] for name in job["strategy"]["matrix"]["os"]] == ["ubuntu", "windows", "macos"]
    assert [step["run"] for step in job["steps"] if step.get("name") == "Test"] == ["python dev.py test"]


@pytest.mark.parametrize(
    "tag, edits, told",
    [
        ("v1.2.3", {}, ""),
        ("v1.2.4", {}, "the tag is v1.2.4, but pyproject.toml has version 1.2.3"),
        ("v1.2.3", {"## 1.2.3": "## 1.2.2"}, "CHANGELOG.md has no section '## 1.2.3'"),
        ("v1.2.3", {"- A change.\n": ""}, "or an empty one"),
        ("v1.2.3", {'PublisherId = "a"': 'PublisherId = ""'}, "PublisherId under [tool.comfy] is empty"),
        ("v1.2.3", {'"https://x"': '""'}, "Repository under [project.urls] is empty"),
        ("v1.2.3", {'"https://i"': '""'}, "Icon under [tool.comfy] is empty"),
        ("v1.2.3", {'"https://b"': '""'}, "Banner under [tool.comfy] is empty"),
    ],
)
def test_only_a_whole_release_is_published(tmp_path, project, tag, edits, told):
    yaml = pytest.importorskip("yaml")
    publish = yaml.safe_load(text(".github/workflows/publish.yml"))
    script = next(step["run"] for step in steps(publish) if step.get("id") == "check")
    files = {
        "pyproject.toml": '[project]\nversion = "1.2.3"\n[project.urls]\nRepository = "https://x"\n'
        '[tool.comfy]\nPublisherId = "a"\nIcon = "https://i"\nBanner = "https://b"\n',
        "CHANGELOG.md": "# Changelog\n\n## 1.2.3\n\n- A change.\n\n## 1.2.0\n\n- Another.\n",
    }
    for name, content in files.items():
        for old, new in edits.items():
            content = content.replace(old, new)
        (tmp_path / name).write_text(content, encoding="utf-8")
    environment = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_ENV": str(tmp_path / "env")}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert told in run.stderr and run.returncode == (1 if told else 0), run.stderr
    if not told:
        assert (tmp_path / "env").read_text().splitlines()[1:-1] == ["- A change."]


# --- older hosts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, old",
    [
        ("0.29.1", True),
        ("0.3.75", True),
        ("0.30.0", False),
        ("0.30", False),
        ("v0.31.2", False),
        ("1.0", False),
        ("", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version, old):
    assert pack.is_older(version, "0.30.0") is old


LOAD = """
import asyncio, logging, sys, types
import dev
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
if "v3" in sys.argv:  # such a host has imported this before it loads packs
    sys.modules["comfy_api.latest"] = types.ModuleType("comfy_api.latest")
pack = dev.load_pack()
print("web", pack.WEB_DIRECTORY)
if "v3" in sys.argv:
    try:
        asyncio.run(pack.comfy_entrypoint())
    except RuntimeError as error:
        print("WARNING", error)
print("torch" in sys.modules)
"""
TOO_OLD = (
    "Chroma Pack: not loaded, none of its nodes is there. It needs ComfyUI 0.30.0 or newer, this is 0.29.1. Update"
)


@pytest.mark.parametrize("kind, level", [("v1", "ERROR"), ("v3", "WARNING")])
def test_an_older_host_is_told_in_one_line_and_gets_nothing(tmp_path, kind, level):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.29.1"\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(support.ROOT)])}
    run = subprocess.run(
        [sys.executable, "-c", LOAD, kind], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert [line.startswith(f"{level} {TOO_OLD}") for line in lines].count(True) == 1
    assert len(lines) == 3 and "web None" in lines and lines[-1] == "False", run.stdout


def test_a_missing_package_is_told_with_the_command_that_brings_it():
    told = pack.problem(ModuleNotFoundError("No module named 'gguf'", name="gguf"))
    assert "package gguf is missing" in told and f'"{sys.executable}" -m pip install -r ' in told
    assert str(support.ROOT / "requirements.txt") in told


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("module 'comfy_api.latest._io' has no attribute 'DynamicCombo'"),
        ImportError("cannot import name 'x' from 'comfy.ops'", name="comfy.ops"),
        ModuleNotFoundError("No module named 'comfy_api.latest'", name="comfy_api.latest"),
    ],
)
def test_what_a_host_lacks_is_named(error):
    told = pack.problem(error)
    assert str(error) in told and "Update ComfyUI and this pack" in told and "\n" not in told


# --- two copies ------------------------------------------------------------------------------------------------------

LOAD_BOTH = """
import asyncio, importlib.util, os, sys
for folder in sys.argv[1:]:  # as the host does it
    name = folder.replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, os.path.join(folder, "__init__.py"))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(module.WEB_DIRECTORY)
    if module.WEB_DIRECTORY is None:
        try:
            asyncio.run(module.comfy_entrypoint())
        except RuntimeError as error:
            print(error)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("linked", [False, True])
def test_second_copy_registers_nothing_and_names_the_first(tmp_path, linked):
    first, second = tmp_path / "chroma-pack", tmp_path / "ComfyUI-Chroma.old"
    first.mkdir()
    (first / "__init__.py").write_text(text("__init__.py"), encoding="utf-8")
    if linked and os.name == "nt":
        pytest.skip("a link needs rights there")
    second.symlink_to(first) if linked else shutil.copytree(first, second)
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    run = subprocess.run(
        [sys.executable, "-c", LOAD_BOTH, str(first), str(second)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [
        "./web",
        "None",
        f"Chroma Pack: the copy in {second} is not loaded, since the one in {first} is in use. Remove one of the two and restart",
        "False",
    ]
