"""The models that may be asked for."""

import msgspec

from stoker.schemas.catalog import Model
from stoker.schemas.openai import ModelCard, ModelList
from stoker.services.gateway.edge.access import check_model, may_use
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import get, openai_paths
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.request_rules import split_adapter


@get(*openai_paths("/models"), summary="List models", answers=ModelList, dialect="openai")
async def list_models(gateway: Gateway, exchange: Exchange) -> None:
    cards = [
        _card(gateway, name, model)
        for model in gateway.models.values()
        if model.function is None and "Weights" not in model.features and may_use(model.name)
        for name in (model.name, *(f"{model.name}_{a}" for a in model.adapter_names()))
    ]
    await exchange.answer(ModelList(tuple(sorted(cards, key=lambda card: card.id))))


@get(*openai_paths("/models/{name:path}"), summary="One model", answers=ModelCard, dialect="openai")
async def show_model(gateway: Gateway, exchange: Exchange) -> None:
    name = exchange.parameter("name")
    model, _ = split_adapter(name, gateway.models)
    check_model(model.name)
    await exchange.answer(_card(gateway, name, model))


def _card(gateway: Gateway, name: str, model: Model) -> ModelCard:
    card = gateway.fleet.card(model.name)
    return ModelCard(
        id=name,
        created=model.created_at,
        object="model",
        owned_by=model.owner or "stoker",
        features=model.features,
        max_model_len=card.context_tokens,
        capabilities=msgspec.to_builtins(card),
    )


ROUTES = [list_models, show_model]
