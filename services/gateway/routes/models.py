"""The models that may be asked for."""

from litestar import Response, get
from litestar.datastructures import State

from schemas.openai import ModelCard, ModelList
from services.gateway.edge.http import json_answer
from services.gateway.gateway import Gateway
from services.gateway.jobs.requests import split_adapter


@get(["/v1/models", "/openai/v1/models"], summary="List models", opt={"answers": ModelList, "is_openai": True})
async def list_models(state: State) -> Response[bytes]:
    gateway: Gateway = state.gateway
    cards = [
        ModelCard(id=name, created=model.created_at, features=model.features)
        for model in gateway.models.values()
        if model.function is None and "Weights" not in model.features
        for name in (model.name, *(f"{model.name}_{a}" for a in model.adapter_names()))
    ]
    return json_answer(ModelList(tuple(sorted(cards, key=lambda card: card.id))))


@get(
    ["/v1/models/{name:path}", "/openai/v1/models/{name:path}"],
    summary="One model",
    opt={"answers": ModelCard, "is_openai": True},
)
async def show_model(state: State, name: str) -> Response[bytes]:
    gateway: Gateway = state.gateway
    model, _ = split_adapter(name.lstrip("/"), gateway.models)
    return json_answer(ModelCard(id=name.lstrip("/"), created=model.created_at, features=model.features))


ROUTES = [list_models, show_model]
