"""python -m tools check_host: what a folder of ComfyUI has, by its sources alone."""

import pytest

from tools import check_host

FILES = {
    "main.py": "",
    "comfyui_version.py": '__version__ = "0.29.9"\n',
    "comfy/__init__.py": "",
    "comfy/samplers.py": """
import os
from . import sigmas as table
from .sigmas import *
from .sigmas import handler as named
try:
    from comfy_kitchen import Quantised
except ImportError:
    class Quantised:
        pass
class KSampler(table.Base):
    NAMES = [1]
    def run(self):
        self.made = 1
    class Inner:
        def deep(self): ...
class Foreign(os.PathLike): ...
if os.name:
    SWITCH = 1
""",
    "comfy/sigmas.py": "class Base:\n    def inherited(self): ...\ndef handler(): ...\nstarred = other = 1\n",
    "comfy/open.py": "globals().update(a=1)\n",
    "comfy/folder/module.py": "x: int = 1\n",
}
HAS = {
    "comfy": True,
    "comfy.samplers": True,
    "comfy.gone": False,
    "comfy.samplers.KSampler.NAMES": True,
    "comfy.samplers.KSampler.run": True,
    "comfy.samplers.KSampler.made": True,
    "comfy.samplers.KSampler.inherited": True,
    "comfy.samplers.KSampler.Inner.deep": True,
    "comfy.samplers.KSampler.gone": False,
    "comfy.samplers.KSampler.Inner.gone": False,
    "comfy.samplers.Foreign.gone": None,
    "comfy.samplers.table.Base.inherited": True,
    "comfy.samplers.table.gone": False,
    "comfy.samplers.named": True,
    "comfy.samplers.starred": True,
    "comfy.samplers.gone": False,
    "comfy.samplers.SWITCH": True,
    "comfy.samplers.SWITCH.attribute": None,
    "comfy.samplers.Quantised.method": None,
    "comfy.open.anything": None,
    "comfy.folder.module.x": True,
    "comfy_kitchen.anything": None,
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "ComfyUI" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "ComfyUI"


@pytest.mark.parametrize("name", HAS)
def test_a_name_is_found_wherever_a_module_has_it_from(tree, name):
    assert check_host.HostTree(tree).has(name) is HAS[name]


def test_every_name_that_is_lacking_is_told_with_what_needs_it(tree, tmp_path, capsys):
    assert check_host.main([str(tree)]) == 1
    out = capsys.readouterr().out
    assert f"{tree}: ComfyUI 0.29.9 has " in out
    assert "  comfy.samplers.CFGGuider.predict_noise: needed for guidance" in out
    assert check_host.main([str(tmp_path)]) == 1
    assert f"{tmp_path}: no ComfyUI, there is no main.py" in capsys.readouterr().err


def test_names_are_read_from_every_form_of_import(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(
        "import comfy.a.b\nimport comfy.c as d\nfrom comfy.e import f as g, h\nfrom . import comfy\nimport torch\n"
        "comfy.a.b.one.two()\nd.three\ng.four.five\ntorch.six\n"
    )
    assert check_host.used(path) == {"comfy.a.b.one.two", "comfy.c.three", "comfy.e.f.four.five", "comfy.e.h"}


@pytest.mark.host
def test_the_host_of_these_tests_lacks_nothing(host_source):
    """Of whichever host: the pinned one, or that of `python dev.py test --host PATH`."""
    names = check_host.used_by()
    gone, unclear = check_host.lacking(host_source, names)
    assert gone == [] and len(names) > 150
    print(f"{len(names)} names, {len(unclear)} of packages beside ComfyUI or made while it runs")
