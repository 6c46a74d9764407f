"""Which models are where on this worker, and bringing them into memory.

`cache.py` decides and is pure, `loader.py` acts, `weights/` finds and examines files.
"""
