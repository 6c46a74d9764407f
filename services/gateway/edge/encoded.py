"""Files inside JSON and form fields: base64, as people send it. Pure."""

import base64
import binascii

_SAFE = str.maketrans("-_", "+/")


def decoded(text: str) -> bytes:
    """The bytes of base64 or of a `data:` URL; b"" where it is neither, or empty.

    Line breaks and spaces count for nothing, the URL-safe alphabet is one too, and the `=` at the end may lack.
    """
    head, separator, rest = text.partition(",")
    if head.lstrip()[:5].lower() == "data:":
        if not (separator and head.rstrip().lower().endswith(";base64")):
            return b""
        text = rest
    plain = "".join(text.split()).translate(_SAFE).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
