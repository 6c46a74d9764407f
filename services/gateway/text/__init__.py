"""Text in the forms of its APIs: one way to run it, and a form for each API that it is asked in."""
