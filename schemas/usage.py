"""What keys use: as gateways tell each other, and by day for who pays."""

import msgspec

from stoker.schemas.ranges import Count, Seconds


class KeyUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a key has used. began, ended: a job. gateway: who says so."""

    key: str
    requests: Count = 0
    tokens: Count = 0
    device_s: Seconds = 0.0
    began: str = ""
    ended: str = ""
    gateway: str = ""


class ModelUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was used of one model. failed: jobs that did not complete. device_s: time in engines."""

    jobs: Count = 0
    failed: Count = 0
    prompt_tokens: Count = 0
    answer_tokens: Count = 0
    device_s: Seconds = 0.0

    def __add__(self, other: "ModelUse") -> "ModelUse":
        return ModelUse(
            self.jobs + other.jobs,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
            round(self.device_s + other.device_s, 4),
        )


class DayUse(msgspec.Struct, frozen=True):
    """One record of the bucket `stoker_usage`: what a key has used on one day (UTC, as 2026-11-30), by model.

    key: "" without keys.
    """

    day: str
    key: str
    models: dict[str, ModelUse]
