"""The settings of the gateway; nothing heavy is imported for them, so that `--help` is quick."""

from typing import Annotated, Literal

from msgspec import Meta

from stoker.services.process.settings import BusSettings

InputUrls = Literal["public", "any", "none"]


class Settings(BusSettings, frozen=True, kw_only=True):
    """The gateway: HTTP and server-sent events in front."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(description="port to listen on", ge=0, le=65535)] = 8000
    name: Annotated[str, Meta(description="name of the gateway; default: random")] = ""
    share_port: Annotated[bool, Meta(description="others on this machine listen on the same port")] = False
    require_keys: Annotated[bool, Meta(description="ask for API keys on loopback too")] = False
    insecure: Annotated[bool, Meta(description="ask for no API keys though others can reach this")] = False
    allowed_hosts: Annotated[str, Meta(description="further names that it answers to, by commas; * = any")] = ""
    cors_origin: Annotated[
        str, Meta(description="web pages of other sites that may ask, as https://app.example, by commas")
    ] = ""
    max_streams: Annotated[int, Meta(description="open event streams at most", ge=1)] = 2000
    max_messages: Annotated[int, Meta(description="requests by message at a time at most", ge=1)] = 256
    max_connections: Annotated[int, Meta(description="connections of one client address at most", ge=1)] = 4096
    head_timeout_s: Annotated[float, Meta(description="longest for a request's headers to come", gt=0)] = 20.0
    body_timeout_s: Annotated[float, Meta(description="longest without a byte of a request's body", gt=0)] = (
        30.0
    )
    metrics_of: Annotated[
        str,
        Meta(description="whose metrics /metrics has, as worker-1=http://127.0.0.1:9101, by commas"),
    ] = ""
    config: Annotated[str, Meta(description="configuration files or folders to watch, by commas")] = ""
    publish: Annotated[bool, Meta(description="make the configuration the catalog at the start")] = False
    functions: Annotated[str, Meta(description="folders of function projects, by commas")] = ""
    reload: Annotated[bool, Meta(description="read function projects again when they change")] = False
    input_urls: Annotated[
        InputUrls,
        Meta(description="whose files requests may name by URLs: of public hosts, any, or none"),
    ] = "public"
    webhook_secret: Annotated[
        str, Meta(description="key of webhook signatures, whsec_…; default: `stoker webhook-secret` prints it")
    ] = ""
    webhook_private: Annotated[bool, Meta(description="allow webhooks to private addresses")] = False
    webhook_ports: Annotated[str, Meta(description="ports that webhooks may have, by commas; * = any")] = (
        "80,443,8000,8080,8443"
    )
