"""What the services say to each other: msgspec Structs, and every subject name, in one place.

Nothing here imports any other package of this repository, touches the network, or reads a clock.
"""
