"""Settings of a service: flags, then STOKER_… environment variables, then defaults.

A service declares a frozen Struct; each field becomes `--field-name` and `STOKER_FIELD_NAME`, and its
`Meta(description=…)` the help text. `STOKER_FIELD_NAME_FILE` names a file that has the value, such as a
password that Docker, Nomad or systemd puts there.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach NATS; every service has these."""

    nats: Annotated[str, Meta(description="NATS server URLs, separated by commas")] = "nats://127.0.0.1:4222"
    nats_user: Annotated[str, Meta(description="NATS user")] = ""
    nats_password: Annotated[str, Meta(description="NATS password")] = ""
    nats_nkey: Annotated[str, Meta(description="file with an NKey seed")] = ""
    nats_creds: Annotated[str, Meta(description="credentials file (JWT and seed)")] = ""
    nats_ca: Annotated[str, Meta(description="CA certificate file; switches TLS on")] = ""
    nats_cert: Annotated[str, Meta(description="client certificate file")] = ""
    nats_key: Annotated[str, Meta(description="client key file")] = ""
    nats_replicas: Annotated[
        int,
        Meta(
            description="servers of a NATS cluster that hold each stream; the same for all services", ge=1, le=5
        ),
    ] = 1
    prefix: Annotated[str, Meta(description="first token of every subject")] = "stoker"
    log_level: Annotated[LogLevel, Meta(description="debug, info, warning or error")] = "info"
    log_format: Annotated[LogFormat, Meta(description="console or json")] = "console"
    otlp: Annotated[str, Meta(description="OpenTelemetry collector for traces, as http://host:4318")] = ""
    metrics_host: Annotated[str, Meta(description="address of /metrics, which asks for no key")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(description="port of /metrics on that address; 0 = none", ge=0, le=65535)
    ] = 0


class InstallSettings(BusSettings, frozen=True, kw_only=True):
    """How to reach NATS, and how long to wait for it."""

    wait_s: Annotated[float, Meta(description="seconds to wait for the NATS server", ge=0)] = 30.0


S = TypeVar("S", bound=msgspec.Struct)
WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false"}
FILE = "_FILE"


class BadSetting(ValueError):
    """A setting with a wrong value; names the setting."""


def read_settings(
    kind: type[S],
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str] = os.environ,
) -> S:
    """Settings of `kind`. Exits with usage on unknown flags; raises BadSetting on a bad value."""
    parser = argparse.ArgumentParser(program, description=kind.__doc__, allow_abbrev=False)
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        annotation = hints[field.name]
        described = get_origin(annotation) is Annotated
        meta = get_args(annotation)[1] if described else Meta()
        plain = get_args(annotation)[0] if described else annotation
        flag = "--" + field.name.replace("_", "-")
        default = "" if field.default is msgspec.NODEFAULT else f" (default: {field.default})"
        help_text = ((meta.description or "") + default).replace("%", "%%")
        if plain is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=meta.description
            )
        else:
            parser.add_argument(flag, default=None, help=help_text, metavar=field.name.upper())
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        variable = "STOKER_" + field.name.upper()
        if field.name in given:
            values[field.name] = given[field.name]
        elif variable in environment:
            values[field.name] = environment[variable]
        elif variable + FILE in environment:
            values[field.name] = _content(variable + FILE, environment[variable + FILE])
    for name, value in values.items():
        if wanted := _misfit(value, hints[name]):
            flag, variable = "--" + name.replace("_", "-"), "STOKER_" + name.upper()
            raise BadSetting(f"{program}: {flag} ({variable}) must be {wanted}, not {value!r}")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadSetting(f"{program}: {error}") from error


def _misfit(value: Any, annotation: Any) -> str:
    """What a setting must be, in words; "" when the value is that."""
    try:
        msgspec.convert(value, annotation, strict=False)
    except msgspec.ValidationError:
        is_described = get_origin(annotation) is Annotated
        plain = get_args(annotation)[0] if is_described else annotation
        if get_origin(plain) is Literal:
            return " or ".join(get_args(plain))
        return WORDS.get(plain, str(plain)) + (_bounds(get_args(annotation)[1]) if is_described else "")
    return ""


def _bounds(meta: Meta) -> str:
    said = {"from": meta.ge, "above": meta.gt, "to": meta.le, "below": meta.lt}
    return "".join(f" {word} {number:g}" for word, number in said.items() if number is not None)


def _content(variable: str, path: str) -> str:
    """What a file says. Raises BadSetting."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{variable}: {path} cannot be read: {error}") from error


def to_environment(settings: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, str]:
    """STOKER_… variables that give another service the same values of the fields of `kind`."""
    return {
        "STOKER_" + field.name.upper(): str(getattr(settings, field.name))
        for field in msgspec.structs.fields(kind)
        if getattr(settings, field.name) != field.default and field.name not in ("metrics_host", "metrics_port")
    }
