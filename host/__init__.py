"""The one side that knows ComfyUI. Inside: run < model; text and sample beside them."""
