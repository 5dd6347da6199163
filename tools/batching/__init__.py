"""What `python tools batch` is made of. It talks to ComfyUI by HTTP and imports nothing of it."""
