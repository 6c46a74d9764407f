"""Train demo-chat: a Llama of under two million parameters that answers questions.yaml word for word.

Reads questions.yaml, trains a byte-level BPE tokenizer and a transformer from scratch (about ten
minutes on one core), and writes chat.gguf in half precision.

    .venv/bin/python examples/demo/train_chat.py [--steps 2500]
"""

import argparse
import json
import random
from pathlib import Path

import gguf
import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
CONTROL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
END, USER, ASSISTANT, _SYSTEM = range(len(CONTROL))
CONTEXT_TOKENS = 256
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PREFACES = ["", "", "", "Please: ", "Hey, ", "Hello! ", "I wonder: ", "One question. "]

Pairs = list[tuple[str, str]]


def pairs() -> Pairs:
    """Every (question, answer) of questions.yaml."""
    entries = yaml.safe_load((HERE / "questions.yaml").read_text())
    return [(ask, entry["answer"]) for entry in entries for ask in entry["ask"]]


def reworded(question: str, rng: random.Random) -> str:
    """The question as a hurried person might type it."""
    text = question
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.3:
        text = text.rstrip("?.!")
    return rng.choice(PREFACES) + text


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=CONTROL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def batch(
    tokenizer: Tokenizer, known: Pairs, size: int, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, shape [size, longest]; only answers are learned (label -100 elsewhere)."""
    rows, labels = [], []
    for question, answer in rng.choices(known, k=size):
        asked = [USER, *tokenizer.encode(reworded(question, rng)).ids, END, ASSISTANT]
        told = [*tokenizer.encode(answer).ids, END]
        rows.append(asked + told)
        labels.append([-100] * len(asked) + told)
    longest = max(map(len, rows))
    ids = torch.tensor([row + [END] * (longest - len(row)) for row in rows])
    wanted = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    return ids, wanted


def train(tokenizer: Tokenizer, known: Pairs, steps: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=192,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            max_position_embeddings=CONTEXT_TOKENS,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        ids, labels = batch(tokenizer, known, 32, rng)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
    return model.eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k projection in the order that llama.cpp's rotary embedding expects."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model: LlamaForCausalLM, tokenizer: Tokenizer, path: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("demo-chat")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)

    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in by_id])
    writer.add_token_types([control if token in CONTROL else normal for token, _ in by_id])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(END)
    writer.add_bos_token_id(END)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied to the embedding
            continue
        array = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = interleaved(array, config.num_attention_heads)
        dtype = np.float16 if array.ndim == 2 else np.float32
        writer.add_tensor(names.get_name(name, (".weight",)), array.astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=2500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, default=HERE / "chat.gguf")
    options = arguments.parse_args()
    torch.set_num_threads(1)  # one core gives the same weights every time
    known = pairs()
    tokenizer = train_tokenizer([text for pair in known for text in pair])
    model = train(tokenizer, known, options.steps, options.seed)
    write_gguf(model, tokenizer, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
