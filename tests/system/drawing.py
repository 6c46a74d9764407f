"""Asking a system for pictures the way document 001 does."""

import io
from typing import Any

import httpx
from PIL import Image

from tests.conftest import System


def generate(system: System, **body: Any) -> httpx.Response:
    return system.post("/generate", {"prompt": "a beautiful landscape", **body})


def size_of(answer: httpx.Response) -> tuple[int, int]:
    return Image.open(io.BytesIO(answer.content)).size


def jobs(system: System) -> set[str]:
    """The ids of the latest jobs."""
    return {job["id"] for job in system.get("/v1/jobs?limit=200")["jobs"]}
