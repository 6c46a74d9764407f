"""What names a file of a payload. Pure."""

import re

ID = re.compile(r"file-[0-9a-f]{24}")
REFERENCE = re.compile(r"/v1/jobs/([^/]+)/(files|images)/(\d{1,4})")
"""A file that a job's function has saved, or a picture of its result."""


REMOTE = re.compile(r"https?://", re.IGNORECASE)
"""How a URL of another server begins."""


def may_name_a_file(text: str) -> bool:
    """Whether a text has the form of what names a file of a payload."""
    return text.startswith("data:") or bool(
        ID.fullmatch(text) or REFERENCE.fullmatch(text) or REMOTE.match(text)
    )
