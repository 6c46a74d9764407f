"""What computes. One file for each engine, by kind; `base.py` says what an engine is, `registry.py` lists them.

Lives in the runner process. Only here heavy libraries are imported.
"""
