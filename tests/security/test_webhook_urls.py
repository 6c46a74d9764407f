"""Where webhooks may go: the public Internet, by URLs that can be posted to. Each of these was taken before."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.public_network import is_public

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "198.18.0.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1", "203.0.113.9",
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::",
    "2001::1", "fec0::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::1", "4000::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:82a::200e"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_no_public_network_is_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_taken(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_what_python_does_not_call_global_is_never_public(address: ipaddress.IPv4Address) -> None:
    if is_public(str(address)):
        assert address.is_global and not address.is_multicast


@pytest.mark.parametrize(
    "url",
    [
        "", "not a url", "ftp://example.org/x", "file:///etc/passwd", "http://", "http:///x", "//example.org/",
        "http://a..b/", "http://" + "a" * 64 + ".example/", "http://" + ".".join(["a" * 60] * 5) + "/",
        "http://example.org:99999/", "http://example.org:0/", "http://[::1", "http://[::1]/", "http://127.0.0.1/",
        "http://[64:ff9b::7f00:1]/", "http://2130706433/", "http://0/", "http://0x7f.1/",
        "http://user:secret@example.org/", "http://example.org:22/", "http://exa mple.org/", "http://\x00/",
        "http://example.org/" + "x" * 3000,
    ],
)  # fmt: skip
def test_a_url_that_could_not_or_must_not_be_posted_to_is_refused_at_submission(url: str) -> None:
    with pytest.raises(RequestError, match="webhook: ") as refused:
        WebhookRules().check(url)
    assert (refused.value.status, refused.value.field) == (400, "webhook")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook",
        "http://example.org:8080/a?b=c",
        "https://bücher.example/",
        "https://8.8.8.8/",
    ],
)
def test_another_is_taken_as_it_is(url: str) -> None:
    assert WebhookRules().check(url) == url
    assert WebhookRules().check(None) == ""


def test_what_operators_allow_is_allowed() -> None:
    with pytest.raises(RequestError, match="--webhook-private"):
        WebhookRules().check("http://10.0.0.1/")
    with pytest.raises(RequestError, match="--webhook-ports"):
        WebhookRules().check("https://example.org:9000/")
    assert WebhookRules(allow_private=True).check("http://10.0.0.1:9000/")
    assert WebhookRules(ports=frozenset({9000})).check("https://example.org:9000/")
    assert WebhookRules(ports=frozenset()).check("https://example.org:12345/")


@given(st.text(max_size=80))
def test_whatever_is_given_is_taken_or_refused(text: str) -> None:
    for url in (text, f"http://{text}/", f"https://example.org:{text}", f"http://[{text}]"):
        try:
            WebhookRules().check(url)
        except RequestError as error:
            assert error.status == 400
