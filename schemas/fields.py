"""What becomes of every field of a request, for each API: the table that the gateway obeys, and from which the
reference page and tests are made.

A field is honoured, by all engines of its kind unless some are named, and under which name; or refused, as an
answer without it would be another one than was asked for; or ignored, since the answer is the same without it.
What is refused may still be sent with a value that asks for nothing. The header `stoker-ignored` names what a
request has lost, and fields that are not here.
"""

from typing import Any, Literal

import msgspec

Fate = Literal["honoured", "refused", "ignored"]
TEXT_ENGINES = ("llamacpp", "vllm", "ollama")


class Rule(msgspec.Struct, frozen=True):
    """note: what it means here, how to do it otherwise, or why it makes no difference. names: what engines call
    it, where that is another name. only: the engines that honour it, where some cannot. harmless: values of a
    refused field that ask for nothing.
    """

    fate: Fate = "honoured"
    note: str = ""
    names: dict[str, str] = {}
    only: tuple[str, ...] = ()
    harmless: tuple[Any, ...] = ()


def _refused(note: str, *harmless: Any) -> Rule:
    return Rule("refused", note, harmless=(False, "", *harmless))


def _ignored(note: str) -> Rule:
    return Rule("ignored", note)


def _option(ours: str = "", **names: str) -> dict[str, str]:
    """Ollama has options; others take the field as it is, or as `names` say."""
    return {"ollama": f"options.{ours}", **names}


_HONOURED = Rule()
_LOCAL = "nobody here bills, audits or filters by it"
_SAMPLER = "of llama.cpp's samplers, of which the engine's default holds"
_ROUTING = "the scheduler decides where a request runs, and keeps beginnings together by itself"

SAMPLING = {
    "temperature": Rule(names=_option("temperature")),
    "top_p": Rule(names=_option("top_p")),
    "top_k": Rule(note="-1: off", names=_option("top_k")),
    "min_p": Rule(names=_option("min_p")),
    "presence_penalty": Rule(names=_option("presence_penalty")),
    "frequency_penalty": Rule(names=_option("frequency_penalty")),
    "repeat_penalty": Rule(names=_option("repeat_penalty", vllm="repetition_penalty")),
    "repetition_penalty": Rule(note="another name of repeat_penalty"),
    "logit_bias": Rule(only=("llamacpp", "vllm")),
    "seed": Rule(note="-1: by chance", names=_option("seed")),
    "stop": Rule(names=_option("stop")),
}
"""How the next token is chosen, in every API of OpenAI's kind."""

_COMMON = {
    "model": _HONOURED,
    **SAMPLING,
    "n": Rule(note="as many jobs, with seeds that follow each other"),
    "stream": _HONOURED,
    "stream_options": Rule(note="include_usage"),
    "user": _ignored(_LOCAL),
    "metadata": _ignored(_LOCAL),
    "store": _ignored("nothing but responses is kept"),
    "service_tier": _ignored("there is one"),
    "safety_identifier": _ignored(_LOCAL),
    "prompt_cache_key": _ignored(_ROUTING),
    "prompt_cache_retention": _ignored(_ROUTING),
    "cache_prompt": _ignored("beginnings of prompts are cached always"),
    "id_slot": _ignored(_ROUTING),
    "priority": _ignored("priorities are those of keys and of POST /v1/jobs"),
    "typical_p": _ignored(_SAMPLER),
    "mirostat": _ignored(_SAMPLER),
    "mirostat_tau": _ignored(_SAMPLER),
    "mirostat_eta": _ignored(_SAMPLER),
    "dry_multiplier": _ignored(_SAMPLER),
    "xtc_probability": _ignored(_SAMPLER),
    "repeat_last_n": _ignored(_SAMPLER),
    "skip_special_tokens": _ignored("special tokens are left out always"),
    "spaces_between_special_tokens": _ignored("special tokens are left out always"),
    "grammar": _refused("use response_format with a json_schema"),
    "json_schema": _refused("use response_format with a json_schema"),
    "guided_json": _refused("use response_format with a json_schema"),
    "guided_regex": _refused("use response_format with a json_schema and a pattern"),
    "guided_choice": _refused("use response_format with a json_schema and an enum"),
    "guided_grammar": _refused("use response_format with a json_schema"),
    "structured_outputs": _refused("use response_format with a json_schema"),
    "use_beam_search": _refused("texts are sampled"),
    "prompt_logprobs": _refused("log probabilities are told of the answer only", 0),
    "min_tokens": _refused("the model decides when it has ended", 0),
    "ignore_eos": _refused("the model decides when it has ended"),
    "stop_token_ids": _refused("give stop as texts", []),
    "truncate_prompt_tokens": _refused("a prompt that is too long is an error: shorten it"),
    "include_stop_str_in_output": _refused("stops are left out of the answer"),
}

CHAT = {
    **_COMMON,
    "messages": Rule(note="texts, and pictures as data: URLs where the model sees them"),
    "max_tokens": Rule(note="-1: no limit", names=_option("num_predict")),
    "max_completion_tokens": Rule(note="another name of max_tokens, which it wins over"),
    "messages.function_call": _refused("use tool_calls"),
    "messages.audio": _refused("answers are texts: give it as content", {}),
    "messages.prefix": _refused("ask /v1/completions to go on with a text"),
    "messages.refusal": _ignored("a model is not told what it has refused"),
    "response_format": Rule(note="checked whatever the engine", names={"ollama": "format"}),
    "tools": _HONOURED,
    "tool_choice": Rule(note="checked whatever the engine; as a response_format where it demands a call"),
    "parallel_tool_calls": Rule(only=("llamacpp", "vllm")),
    "logprobs": _HONOURED,
    "top_logprobs": Rule(note="20 at most"),
    "chat_template_kwargs": Rule(
        note="with Ollama: enable_thinking and reasoning_effort", names={"ollama": "think"}
    ),
    "reasoning_effort": Rule(
        note="none: enable_thinking false; a server behind the engine OpenAI is told it as it is",
        names={"llamacpp": "chat_template_kwargs", "vllm": "chat_template_kwargs", "ollama": "think"},
    ),
    "verbosity": _ignored("models here know no such thing"),
    "prediction": _ignored("it would make an answer sooner, not another"),
    "modalities": _refused("answers are texts", ["text"], None),
    "audio": _refused("answers are texts: ask /v1/audio for what is heard"),
    "web_search_options": _refused("nothing is searched: give a tool for it"),
    "functions": _refused("use tools"),
    "function_call": _refused("use tool_choice"),
    "best_of": _refused("ask for n answers and choose", 1),
    "echo": _refused("ask /v1/completions"),
    "add_generation_prompt": _refused("a conversation is answered", True),
    "continue_final_message": _refused("ask /v1/completions to go on with a text"),
    "chat_template": _refused("the model's own template is used"),
}

COMPLETIONS = {
    **_COMMON,
    "prompt": Rule(note="a text, several, or lists of token ids (not with Ollama)"),
    "max_tokens": Rule(note="-1: no limit", names=_option("num_predict")),
    "n_predict": Rule(note="another name of max_tokens"),
    "logprobs": Rule(note="20 at most"),
    "echo": Rule(note="without logprobs"),
    "suffix": Rule(only=("ollama",)),
    "best_of": _refused("ask for n answers and choose", 1),
    "response_format": _refused("ask /v1/chat/completions", {"type": "text"}),
}

EMBEDDINGS = {
    "model": _HONOURED,
    "input": Rule(note="a text, several, or lists of token ids (not with Ollama)"),
    "encoding_format": _HONOURED,
    "dimensions": Rule(note="the first ones, of length 1 again"),
    "user": _ignored(_LOCAL),
    "input_type": _ignored("write the model's own prefix into the text"),
    "truncate": _refused("a text that is too long is an error: shorten it", "NONE"),
    "truncate_prompt_tokens": _refused("a text that is too long is an error: shorten it"),
}

RESPONSES = {
    "model": _HONOURED,
    "input": Rule(note="a text or items: messages, calls and their results; texts and pictures"),
    "instructions": _HONOURED,
    "max_output_tokens": _HONOURED,
    "temperature": _HONOURED,
    "top_p": _HONOURED,
    "top_logprobs": _HONOURED,
    "tools": Rule(note="functions"),
    "tool_choice": _HONOURED,
    "parallel_tool_calls": _HONOURED,
    "text": Rule(note="format; verbosity is left out"),
    "reasoning": Rule(note="effort; a summary is left out"),
    "previous_response_id": Rule(note="for as long as results are kept"),
    "conversation": Rule("refused", "use previous_response_id"),
    "store": _HONOURED,
    "background": _HONOURED,
    "stream": _HONOURED,
    "include": Rule(note="message.output_text.logprobs; the rest is of tools that are not here"),
    "metadata": Rule(note="given back"),
    "truncation": Rule(note="given back; a prompt that is too long is an error"),
    "user": Rule(note="given back"),
    "seed": _HONOURED,
    "chat_template_kwargs": _HONOURED,
    "max_tool_calls": _ignored("tools are called by the client"),
    "prompt_cache_key": _ignored(_ROUTING),
    "prompt_cache_retention": _ignored(_ROUTING),
    "safety_identifier": _ignored(_LOCAL),
    "service_tier": _ignored("there is one"),
    "stream_options": _ignored("events are not padded"),
    "context_management": _ignored("conversations are not compacted"),
    "prompt": _refused("write the prompt into instructions and input"),
}

MESSAGES = {
    "model": _HONOURED,
    "messages": Rule(note="texts, pictures, calls and their results"),
    "system": _HONOURED,
    "max_tokens": _HONOURED,
    "stop_sequences": _HONOURED,
    "stream": _HONOURED,
    "temperature": _HONOURED,
    "top_k": _HONOURED,
    "top_p": _HONOURED,
    "tools": Rule(note="the client's own"),
    "tool_choice": _HONOURED,
    "thinking": Rule(note="on or off; budget_tokens is not counted"),
    "metadata": _ignored(_LOCAL),
    "service_tier": _ignored("there is one"),
    "cache_control": _ignored("beginnings of prompts are cached always"),
    "inference_geo": _ignored(_LOCAL),
    "container": _refused("nothing is run here"),
    "mcp_servers": _refused("no tool is called here", []),
    "output_config": _refused("use a tool with the schema, and tool_choice"),
}

_OLLAMA = {
    "model": Rule(note="with or without :latest"),
    "format": Rule(note='"json" or a JSON schema'),
    "stream": Rule(note="true unless it says otherwise"),
    "think": _HONOURED,
    "logprobs": _HONOURED,
    "top_logprobs": _HONOURED,
    "options": Rule(note="sampling, num_predict, seed, stop; others are of how a model is loaded"),
    "keep_alive": Rule(
        note="0 unloads the model, for keys of the role operate; else it stays until its memory is needed"
    ),
    "truncate": _ignored("a prompt that is too long is an error"),
    "shift": _ignored("a context that is full ends the answer"),
}
OLLAMA_CHAT = {**_OLLAMA, "messages": _HONOURED, "tools": _HONOURED}
OLLAMA_GENERATE = {
    **_OLLAMA,
    "prompt": _HONOURED,
    "suffix": Rule(only=("ollama",)),
    "system": Rule(note="not with raw"),
    "images": Rule(note="not with raw"),
    "raw": _HONOURED,
    "template": Rule("refused", "use raw, with the template's text in the prompt"),
    "context": Rule("refused", "use /api/chat"),
}

_HIRES = ("hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y")
IMAGES = {
    "model": _HONOURED,
    "prompt": _HONOURED,
    "n": _HONOURED,
    "size": _HONOURED,
    "response_format": _HONOURED,
    "stream": _HONOURED,
    "partial_images": _HONOURED,
    "output_format": Rule(note="png, jpeg or webp; of a video mp4, webp, gif or png; previews are PNG"),
    "output_compression": Rule(note="quality of a JPEG, WebP or MP4, 0 to 100; 92 unless asked for"),
    "num_frames": Rule(note="of a video"),
    "fps": Rule(note="frames per second of a video; the family's unless asked for"),
    "negative_prompt": _HONOURED,
    "num_inference_steps": _HONOURED,
    "guidance_scale": _HONOURED,
    "steps": Rule(note="another name of num_inference_steps"),
    "cfg_scale": Rule(note="another name of guidance_scale"),
    "sampler": Rule(note="as A1111 and ComfyUI call it, or a scheduler class of diffusers"),
    "seed": Rule(note="picture i has seed + i"),
    "prompt_weights": Rule(note="(x:1.3), [x] and BREAK are as in A1111; off unless the model says so"),
    "controlnet": Rule(note="model (a name), image (base64), weight, guidance_start, guidance_end"),
    "tiling": Rule(note="the picture goes on at its edges; with a UNet"),
    "subseed": Rule(note="with subseed_strength; -1: by chance. Picture i has the seed, and subseed + i"),
    "subseed_strength": Rule(note="0 to 1; Stable Diffusion from text"),
    "enable_hr": Rule(note="a second pass over the enlarged picture, as A1111's hires fix"),
    **{name: Rule(note="with enable_hr") for name in _HIRES},
    "denoising_strength": Rule(note="with enable_hr; of an edit another name of strength"),
    "clip_skip": Rule(note="as A1111 counts: 1 is the last layer; SDXL's own is 2"),
    "user": _ignored(_LOCAL),
    "quality": _ignored("use num_inference_steps"),
    "style": _ignored("write it into the prompt, or use a mode"),
    "moderation": _ignored(_LOCAL),
    "input_fidelity": _ignored("use strength"),
    "background": _refused("pictures have no transparent background", "opaque", "auto"),
}

APIS: dict[str, dict[str, Rule]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/api/chat": OLLAMA_CHAT,
    "/api/generate": OLLAMA_GENERATE,
    "/v1/images/generations": IMAGES,
}
