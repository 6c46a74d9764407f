"""A NATS server and connections to it, as the contract tests have them."""

from tests.contract.conftest import connected, server

__all__ = ["connected", "server"]
