"""Where the NATS servers are, and who we are to them."""

import asyncio
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from stoker.services.bus.errors import CannotConnect
from stoker.services.process.settings import BusSettings

PORT_POLL_S = 0.02


def credentials(settings: BusSettings) -> dict[str, Any]:
    """nats-py's options for who we are."""
    options: dict[str, Any] = {}
    if settings.nats_user:
        options |= {"user": settings.nats_user, "password": settings.nats_password}
    if settings.nats_nkey:
        options["nkeys_seed"] = str(Path(settings.nats_nkey).expanduser())
    if settings.nats_creds:
        options["user_credentials"] = str(Path(settings.nats_creds).expanduser())
    return options


def tls_context(settings: BusSettings) -> ssl.SSLContext | None:
    """How to speak TLS; None: not at all."""
    if not settings.nats_ca:
        return None
    context = ssl.create_default_context(cafile=settings.nats_ca)
    if settings.nats_cert:
        context.load_cert_chain(settings.nats_cert, settings.nats_key or None)
    return context


def urls_of(settings: BusSettings) -> list[str]:
    """The addresses of the servers."""
    return [url.strip() for url in settings.nats.split(",") if url.strip()]


def _split(url: str) -> SplitResult:
    return urlsplit(url if "//" in url else f"nats://{url}")


def shown(urls: list[str]) -> str:
    """Addresses as they may be logged: without passwords."""
    return ", ".join(f"nats://{_split(url).netloc.rpartition('@')[2]}" for url in urls)


async def wait_for_port(urls: list[str], timeout_s: float) -> None:
    """Return when one of the servers listens: the client itself would wait 2 s after a first refusal."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        for url in urls:
            parts = _split(url)
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
                writer.close()
                return
            except OSError:
                continue
        if loop.time() > deadline:
            raise CannotConnect(f"no NATS server listens at {shown(urls)}; start one, or let `stoker up` do it")
        await asyncio.sleep(PORT_POLL_S)
