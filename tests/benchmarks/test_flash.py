"""The table of few steps by a LoRA, with a fake painter; without the file it says how to make it."""

from types import SimpleNamespace

import support  # noqa: F401  the repository's root on the path

from benchmarks import flash


def test_flash_table(painted, rows_of, monkeypatch, tmp_path, capsys, results):
    monkeypatch.setattr(flash, "lora_file", lambda: None)
    flash.main(1)
    assert "python -m demo.distil_flash" in capsys.readouterr().out and not list(results.iterdir())
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"matrices")
    monkeypatch.setattr(flash, "lora_file", lambda: path)
    applied = SimpleNamespace(apply_lora=lambda model, file, strength: (f"{model} with {file.name}", []))
    monkeypatch.setattr(flash.dev, "load_pack", lambda name: applied)
    text, painter = painted(flash)
    ((_, rows),) = rows_of(text)
    assert [row[0] for row in rows] == ["20 steps, cfg 3", "6 steps, cfg 1, without LoRA", "6 steps, cfg 1, with it"]
    assert [row[1] for row in rows] == ["40", "6", "6"] and painter.base == "model with lora.safetensors"
