"""What all ways to ask for a picture share: who reads it, which values it may have, and what the model says."""

from typing import Any

import msgspec
import pytest

from schemas.a1111 import Txt2ImgRequest
from schemas.catalog import Model, Spec
from schemas.discovery import Inputs, Method, Parameter, Schema
from schemas.drawing import MAX_CLIP_SKIP, DrawingFields
from schemas.jobs import ImageInput
from schemas.openai import ImageEditRequest, ImageGenerationRequest
from services.gateway.edge.problems import RequestError
from services.gateway.jobs.a1111_requests import CLIP_SKIP, drawing_input, ignored_settings
from services.gateway.jobs.discovered import discovered_input
from services.gateway.jobs.drawing_fields import as_asked, whole_number
from services.gateway.jobs.requests import JobRequest, edit_input, generation_input, job_input
from services.gateway.routes.modes import GenerateRequest
from services.gateway.routes.modes import generation_input as mode_input

SPEC = Spec(name="s", engine="diffusers", url="x")


def model(**defaults: Any) -> Model:
    return Model("m", ("ImageGeneration",), (SPEC,), defaults=defaults)


def job(known: Model, **given: Any) -> ImageInput:
    drawn, _ = job_input(JobRequest(model="m", input={"prompt": "x", **given}), known)
    assert isinstance(drawn, ImageInput)
    return drawn


def asked_everywhere(known: Model, **given: Any) -> list[ImageInput]:
    """One request in each of the forms that have the shared fields."""
    return [
        generation_input(ImageGenerationRequest(prompt="x", model="m", **given), known),
        edit_input(ImageEditRequest(prompt="x", model="m", **given), known),
        mode_input(GenerateRequest(prompt="x", **given), known),
        job(known, **given),
    ]


def test_every_way_to_ask_has_the_shared_fields() -> None:
    values: dict[str, Any] = {"prompt_weights": True, "clip_skip": 3}
    for drawn in asked_everywhere(model(), **values):
        assert {name: getattr(drawn, name) for name in values} == values
    asked = GenerateRequest(prompt="x", **values)
    assert as_asked(asked).items() >= values.items()
    assert as_asked(asked).keys() == {one.name for one in msgspec.structs.fields(DrawingFields)}


def test_brackets_are_text_and_no_layer_is_left_out_unless_somebody_says_so() -> None:
    for drawn in asked_everywhere(model()):
        assert (drawn.prompt_weights, drawn.clip_skip) == (False, None)


def test_the_model_says_what_a_request_leaves_open() -> None:
    known = model(prompt_weights=True, clip_skip=2)
    for drawn in asked_everywhere(known):
        assert (drawn.prompt_weights, drawn.clip_skip) == (True, 2)
    for drawn in asked_everywhere(known, prompt_weights=False, clip_skip=1):
        assert (drawn.prompt_weights, drawn.clip_skip) == (False, 1)


@pytest.mark.parametrize("skip", [0, -1, MAX_CLIP_SKIP + 1])
def test_a_skip_out_of_range_is_refused(skip: int) -> None:
    for make in (lambda: asked_everywhere(model(), clip_skip=skip), lambda: job(model(), clip_skip=skip)):
        with pytest.raises(RequestError) as refused:
            make()
        assert (refused.value.status, refused.value.field) == (400, "clip_skip")


def test_a_skip_of_discovery_is_the_pipelines_own() -> None:
    parameters = {"prompt": Parameter("prompt", True), "clip_skip": Parameter("clip_skip", False, None, "int")}
    schema = Schema("m", "P", "sd15", ("text-to-image",), Inputs((), ()), {"__call__": Method(parameters)}, {})
    known = model(prompt_weights=True, clip_skip=2)
    drawn, _, _ = discovered_input(schema, known, {"prompt": "x"})
    assert (drawn.prompt_weights, drawn.clip_skip, drawn.parameters) == (True, 2, {})
    drawn, _, _ = discovered_input(schema, known, {"prompt": "x", "clip_skip": 3})
    assert (drawn.clip_skip, drawn.parameters) == (None, {"clip_skip": 3})


# A1111 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "read"), [(2, 2), (2.0, 2), ("2", 2), (None, None)])
def test_a1111s_setting_is_read_however_it_is_written(value: Any, read: int | None) -> None:
    asked = Txt2ImgRequest(prompt="x", override_settings={CLIP_SKIP: value})
    drawn = drawing_input(asked, model(), {})
    assert (drawn.clip_skip, drawn.prompt_weights) == (read, True)


@pytest.mark.parametrize("value", ["two", 1.5, True, [2], {}, 0, 99, "nan", "inf", 10**400])
def test_a_setting_that_is_no_number_of_layers_is_refused(value: Any) -> None:
    asked = Txt2ImgRequest(prompt="x", override_settings={CLIP_SKIP: value})
    with pytest.raises(RequestError) as refused:
        drawing_input(asked, model(), {})
    assert (refused.value.status, refused.value.field) == (400, f"override_settings.{CLIP_SKIP}")


def test_settings_that_mean_nothing_here_are_told() -> None:
    settings = {"sd_model_checkpoint": "m", CLIP_SKIP: 2, "eta_noise_seed_delta": 31337}
    told = ignored_settings(Txt2ImgRequest(prompt="x", override_settings=settings))
    assert told == ["override_settings.eta_noise_seed_delta"]
    assert whole_number(None, "x") is None
