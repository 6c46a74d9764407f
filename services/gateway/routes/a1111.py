"""The API of AUTOMATIC1111's web UI, so that what is written for it needs only another address.

The checkpoint is a model of the catalog: `override_settings.sd_model_checkpoint`, else the one that
`POST /sdapi/v1/options` chose for this key, else the current mode.
"""

import base64
from typing import Any

import msgspec

from stoker.schemas import wire
from stoker.schemas.a1111 import (
    DrawingProgress,
    Drawn,
    Embedding,
    Embeddings,
    Img2ImgRequest,
    NamedLora,
    NamedSampler,
    NamedScheduler,
    Options,
    ProgressState,
    SdModel,
    Txt2ImgRequest,
)
from stoker.schemas.catalog import Model, weights_key
from stoker.schemas.job_events import Completed, ImageOutput
from stoker.schemas.jobs import Attachment, ImageInput, Job, picture_seed
from stoker.schemas.samplers import SAMPLERS
from stoker.services.gateway.edge.access import check_model, may_use, owner
from stoker.services.gateway.edge.encoded import decoded
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import Route, get, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.a1111_requests import SCHEDULES, drawing_input, ignored_settings, loras_of
from stoker.services.gateway.jobs.active import Drawing
from stoker.services.gateway.jobs.drawing_fields import controlnets_of
from stoker.services.gateway.jobs.own_jobs import finished, job_headers
from stoker.services.gateway.jobs.remote_files import with_bytes
from stoker.services.gateway.jobs.request_rules import OFF, split_adapter
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import attach, get_pictures

EMPTY: dict[str, Any] = {
    "sd-vae": [], "hypernetworks": [], "face-restorers": [], "realesrgan-models": [], "prompt-styles": [],
    "extensions": [], "script-info": [], "cmd-flags": {},
    "scripts": {"txt2img": [], "img2img": []}, "memory": {"ram": {}, "cuda": {}},
}  # fmt: skip
"""What A1111's clients ask for at their start, and there is none of here."""


@post_body("/sdapi/v1/txt2img", summary="Draw (A1111)", asks=Txt2ImgRequest, coerces=True, answers=Drawn)
async def txt2img(gateway: Gateway, exchange: Exchange, asked: Txt2ImgRequest) -> None:
    model = _model(gateway, asked.override_settings.get("sd_model_checkpoint"))
    drawn = drawing_input(asked, model, loras_of(gateway.models))
    job = gateway.submission.make_job(model, "", drawn, seed=asked.seed, wants_events=True)
    await _answer(gateway, exchange, asked, model, job)


@post_body(
    "/sdapi/v1/img2img",
    summary="Draw from a picture (A1111)",
    asks=Img2ImgRequest,
    coerces=True,
    answers=Drawn,
)
async def img2img(gateway: Gateway, exchange: Exchange, asked: Img2ImgRequest) -> None:
    model = _model(gateway, asked.override_settings.get("sd_model_checkpoint"))
    drawn = drawing_input(asked, model, loras_of(gateway.models))
    job = gateway.submission.make_job(model, "", drawn, seed=asked.seed, wants_events=True)
    files = {"image": await _attached(gateway, job, "init_images", asked.init_images[0])}
    if asked.mask:
        files["mask_image"] = await _attached(gateway, job, "mask", asked.mask)
    job = with_input(job, msgspec.structs.replace(drawn, files=files))
    await _answer(gateway, exchange, asked, model, job)


async def _attached(gateway: Gateway, job: Job, field: str, text: str) -> Attachment:
    """Raises RequestError 400."""
    content = decoded(await with_bytes(gateway, text, field))
    if not content:
        raise RequestError(400, f"{field} is no base64", field=field, code="invalid_value")
    return await attach(gateway.bus, f"{job.id}/{field}", content)


def _model(gateway: Gateway, named: Any) -> Model:
    """The model of a request. Raises RequestError."""
    chosen = gateway.checkpoints.get(owner(), "")
    if not named and chosen not in gateway.models:  # none was chosen, or it is gone from the catalog
        return gateway.modes.find(None)
    model, _ = split_adapter(str(named or chosen).partition(" [")[0], gateway.models)
    return model


async def _answer(gateway: Gateway, exchange: Exchange, asked: Txt2ImgRequest, model: Model, job: Job) -> None:
    exchange.ignore(ignored_settings(asked))
    with gateway.drawing.under_way(owner(), job.id) as drawing:
        try:
            completed, attached = await finished(gateway, exchange, job)
        except RequestError as error:
            if error.code != "cancelled" or not drawing.is_interrupted:
                raise
            await exchange.answer(_interrupted(asked, drawing), headers=job_headers(job))
            return
    output = completed.output
    assert isinstance(output, ImageOutput)
    pictures = await get_pictures(gateway.bus, output, attached)
    images = tuple(base64.b64encode(one).decode() for one in pictures) if asked.send_images else ()
    assert isinstance(job.input, ImageInput)
    info = wire.encode(_info(asked, model, completed, output) | _varied(job.input, output)).decode()
    await exchange.answer(Drawn(images, _parameters(asked), info), headers=job_headers(job, completed))


def _parameters(asked: Txt2ImgRequest) -> dict[str, Any]:
    """The request without its pictures."""
    told: dict[str, Any] = msgspec.to_builtins(asked)
    return {name: value for name, value in told.items() if name not in ("init_images", "mask")}


def _interrupted(asked: Txt2ImgRequest, drawing: Drawing) -> Drawn:
    """What clients are given of a drawing that they have stopped: how far it was, where that was seen."""
    seen = (base64.b64encode(drawing.preview).decode(),) if drawing.preview and asked.send_images else ()
    info = {"prompt": asked.prompt, "interrupted": True, "steps": drawing.step or 0}
    return Drawn(seen, _parameters(asked), wire.encode(info).decode())


def _varied(drawn: ImageInput, output: ImageOutput) -> dict[str, Any]:
    """What A1111 tells of variations and of a second pass."""
    variation, hires = drawn.variation, drawn.hires
    count = len(output.pictures)
    subseeds = [picture_seed(variation.seed, index) if variation is not None else OFF for index in range(count)]
    return {
        "subseed": subseeds[0],
        "all_subseeds": subseeds,
        "subseed_strength": variation.strength if variation is not None else 0,
        "denoising_strength": hires.strength if hires is not None else drawn.parameters.get("strength"),
    }


def _info(asked: Txt2ImgRequest, model: Model, completed: Completed, output: ImageOutput) -> dict[str, Any]:
    """What A1111 tells of its pictures."""
    used = output.details.get("parameters", {})
    seeds = [one.seed for one in output.pictures]
    first = output.pictures[0]
    steps, guidance = used.get("num_inference_steps"), used.get("guidance_scale")
    facts = {
        "Steps": steps, "Sampler": asked.sampler_name or asked.sampler_index, "CFG scale": guidance,
        "Size": f"{first.width}x{first.height}", "Model": model.name,
    }  # fmt: skip
    negative = f"\nNegative prompt: {asked.negative_prompt}" if asked.negative_prompt else ""
    lines = [
        f"{asked.prompt}{negative}\n"
        + ", ".join(f"{name}: {value}" for name, value in (facts | {"Seed": seed}).items() if value is not None)
        for seed in seeds
    ]
    return {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(seeds),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": first.width,
        "height": first.height,
        "sampler_name": facts["Sampler"],
        "cfg_scale": guidance,
        "steps": steps,
        "batch_size": asked.batch_size,
        "sd_model_name": model.name,
        "infotexts": lines,
        "job_timestamp": f"{completed.finished_at:.0f}",
        "clip_skip": used.get("clip_skip", 0) + 1,
        "comments": output.details.get("remark", ""),
    }


# What there is ------------------------------------------------------------------------------------


def _drawing_models(gateway: Gateway) -> list[Model]:
    found = (one for one in gateway.models.values() if "ImageGeneration" in one.features and may_use(one.name))
    return sorted(found, key=lambda one: one.name)


@get("/sdapi/v1/sd-models", summary="Checkpoints (A1111)", answers=list[SdModel])
async def sd_models(gateway: Gateway, exchange: Exchange) -> None:
    models = [
        SdModel(one.name, one.name, None, None, weights_key(one.name, one.specs[0]).partition("?")[0])
        for one in _drawing_models(gateway)
    ]
    await exchange.answer(models)


@get("/sdapi/v1/samplers", summary="Samplers (A1111)", answers=list[NamedSampler])
async def samplers(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer([NamedSampler(name, (name.lower(),)) for name in SAMPLERS])


@get("/sdapi/v1/schedulers", summary="Schedules (A1111)", answers=list[NamedScheduler])
async def schedulers(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer([NamedScheduler(name.lower(), name) for name in SCHEDULES])


@get("/sdapi/v1/loras", summary="LoRAs (A1111)", answers=list[NamedLora])
async def loras(gateway: Gateway, exchange: Exchange) -> None:
    known = sorted(loras_of(gateway.models).items())
    await exchange.answer([NamedLora(name, name, one.url.rpartition("/")[2]) for name, one in known])


@get("/sdapi/v1/embeddings", summary="Textual inversions (A1111)", answers=Embeddings)
async def embeddings(gateway: Gateway, exchange: Exchange) -> None:
    """Of the model that requests without one use, as it was loaded last."""
    card = gateway.fleet.card(_model(gateway, None).name)
    loaded = {name: Embedding(shape, vectors) for name, (vectors, shape) in card.embeddings.items()}
    skipped = {name: Embedding(0, 0, reason) for name, reason in card.skipped_embeddings.items()}
    await exchange.answer(Embeddings(loaded, skipped))


@get("/controlnet/model_list", summary="ControlNets (A1111)", answers=dict[str, list[str]])
async def controlnets(gateway: Gateway, exchange: Exchange) -> None:
    names = {name for model in _drawing_models(gateway) for name in controlnets_of(model)}
    await exchange.answer({"model_list": sorted(names)})


@get("/controlnet/module_list", summary="What prepares pictures for ControlNets: nothing (A1111)")
async def control_modules(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer({"module_list": ["none"], "module_detail": {}})


@get("/sdapi/v1/options", summary="Settings (A1111)", answers=Options)
async def options(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.answer(Options(_model(gateway, None).name))


@post_body("/sdapi/v1/options", summary="Choose a checkpoint (A1111)", asks=Options, answers=Options)
async def choose(gateway: Gateway, exchange: Exchange, asked: Options) -> None:
    if asked.sd_model_checkpoint:
        model = _model(gateway, asked.sd_model_checkpoint)
        check_model(model.name)
        if "ImageGeneration" not in model.features:
            message = f"{model.name!r} draws no pictures"
            raise RequestError(400, message, field="sd_model_checkpoint", code="wrong_feature")
        gateway.checkpoints[owner()] = model.name
        gateway.loading.start(model)
    await exchange.answer(Options(_model(gateway, None).name))


# What is under way --------------------------------------------------------------------------------


@get("/sdapi/v1/progress", summary="How far a drawing is (A1111)", answers=DrawingProgress)
async def progress(gateway: Gateway, exchange: Exchange) -> None:
    drawings = gateway.drawing.of(owner())
    if not drawings:
        await exchange.answer(DrawingProgress(0.0, 0.0, ProgressState()))
        return
    first = drawings[0]
    state = ProgressState(
        job=first.job, job_count=len(drawings), sampling_step=first.step or 0, sampling_steps=first.steps
    )
    picture = base64.b64encode(first.preview).decode() if first.preview else None
    await exchange.answer(DrawingProgress(first.share, first.remaining_s, state, picture))


@post("/sdapi/v1/interrupt", summary="Stop what is drawn for this key (A1111)")
async def interrupt(gateway: Gateway, exchange: Exchange) -> None:
    for drawing in gateway.drawing.of(owner()):
        drawing.is_interrupted = True
        await gateway.submission.cancel(drawing.job)
    await exchange.answer({})


def _empty(name: str, content: Any) -> Route:
    async def answer(gateway: Gateway, exchange: Exchange) -> None:
        await exchange.answer(content)

    answer.__name__ = f"a1111_{name.replace('-', '_')}"
    return get(f"/sdapi/v1/{name}", summary=f"{name}: there are none (A1111)")(answer)


ROUTES = [
    controlnets,
    control_modules,
    txt2img,
    img2img,
    sd_models,
    samplers,
    schedulers,
    loras,
    embeddings,
    options,
    choose,
    progress,
    interrupt,
    *(_empty(name, content) for name, content in EMPTY.items()),
]
