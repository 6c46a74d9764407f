"""Which URLs a webhook may have: checked when a job is submitted, and again before it is posted to. Pure."""

from dataclasses import dataclass

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.url_rules import UrlRules


@dataclass(frozen=True, slots=True)
class WebhookRules(UrlRules):
    """See UrlRules."""

    def check(self, url: str | None) -> str:
        """A webhook's URL as it may be used, "" for none. Raises RequestError 400."""
        if url is None:
            return ""
        if problem := self.why_not(url):
            raise RequestError(400, f"webhook: {problem}", field="webhook", code="invalid_value")
        return url
