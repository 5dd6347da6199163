"""A prompt of seven nodes, and what the server would tell of their classes."""


def spec(kind, **options):
    return [kind, options]


INFO = {
    "Load": {"input": {"required": {"unet_name": spec(["a.gguf", "b.gguf"])}}},
    "Text": {"input": {"required": {"clip": spec("CLIP"), "text": spec("STRING")}}},
    "Pad": {"input": {"required": {"conditioning": spec("CONDITIONING")}}},
    "Size": {"input": {"required": {"width": spec("INT", min=16, max=16384)}}},
    "Sample": {
        "input": {
            "required": {
                "model": spec("MODEL"),
                "positive": spec("CONDITIONING"),
                "negative": spec("CONDITIONING"),
                "seed": spec("INT", min=0, max=2**64 - 1),
                "steps": spec("INT", min=1, max=100),
                "cfg": spec("FLOAT", min=0.0, max=100.0),
                "tiled": spec("BOOLEAN"),
                "curve": spec(
                    "COMFY_DYNAMICCOMBO_V3",
                    options=[
                        {"key": "beta", "inputs": {"required": {"alpha": spec("FLOAT", min=0.1, max=2.0)}}},
                        {"key": "linear", "inputs": {}},
                    ],
                ),
            }
        }
    },
}


def node(kind, title="", **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}


PROMPT = {
    "1": node("Load", unet_name="a.gguf"),
    "2": node("Text", "One", clip=["9", 0], text="x"),
    "3": node("Text", "Two. Negative", clip=["9", 0], text="y"),
    "4": node("Pad", conditioning=["2", 0]),
    "5": node(
        "Sample",
        "KSampler",
        **{"model": ["1", 0], "positive": ["4", 0], "negative": ["3", 0], "seed": 1, "steps": ["6", 0], "cfg": 3.0},
        **{"tiled": False, "curve": "beta", "curve.alpha": 0.6},
    ),
    "6": node("Size", width=64),
}
