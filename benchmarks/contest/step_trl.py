"""Steps of TRL's GRPOTrainer: asked by `benchmarks.train_step`, see `process`.

Needs trl, torch, transformers, peft and datasets, and nothing of this project beside `process`. What is set so that
TRL is as fast as it gets:

- weights and adapter in bfloat16 (its defaults are a float32 adapter and autocast), no gradient checkpointing, no KL
  term and so no second model, no logs, no checkpoints;
- one optimizer step for all rows, in parts of `batch` rows, and one iteration, so that it need not compute old
  logprobs;
- no top-k (its default is to have none either), no top-p;
- answers never stop, because its end tokens are replaced by one that does not exist: what asks for that
  (`min_new_tokens`) would cost time;
- its reward is a number made of the text, which takes no time.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import tempfile
import warnings
import zlib
from typing import Any

from benchmarks.contest.process import (
    Step,
    Steps,
    StepSpec,
    Stopwatch,
    forget_peak,
    library_versions,
    peak_bytes,
    serve,
)

_NO_TOKEN = -1


def measure(spec: StepSpec) -> Steps:
    """Time the steps; the first does not count."""
    warnings.simplefilter("ignore")
    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    callbacks = importlib.import_module("transformers").TrainerCallback
    watch, marks = Stopwatch(spec.device), list[float]()
    done: list[dict[str, Any]] = []

    class Marks(callbacks):  # type: ignore[misc,valid-type]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(watch.now())
            done.append(watch.take())
            if len(done) == 1:
                forget_peak(spec.device)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            marks.append(watch.now())

    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(spec, folder, watch, Marks())
        model = trainer.model
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        trainer.train()
    steps = [
        _as_step(spec, ended - began, found)
        for began, ended, found in zip(marks[1:-1], marks[2:], done[1:], strict=True)
    ]
    names = ("trl", "torch", "transformers", "peft", "accelerate")
    return Steps(steps, trained, peak_bytes(spec.device), library_versions(names))


def _as_step(spec: StepSpec, seconds: float, found: dict[str, Any]) -> Step:
    prompts, answers = found["prompts"], found["answers"]
    groups = [(prompts[i], answers[i : i + spec.group_size]) for i in range(0, len(prompts), spec.group_size)]
    return Step(
        seconds=seconds,
        sampling=found["sampling"],
        grading=found["grading"],
        training=seconds - found["collecting"],
        rows=int(found["rows"]),
        prompt_tokens=sum(prompts),
        sampled_tokens=sum(answers),
        trained_tokens=int(found["trained_tokens"]),
        groups=groups,
    )


def _trainer(spec: StepSpec, folder: str, watch: Stopwatch, callback: Any) -> Any:
    """A trainer whose parts are timed."""
    trl, peft = importlib.import_module("trl"), importlib.import_module("peft")
    datasets, transformers = importlib.import_module("datasets"), importlib.import_module("transformers")
    torch = importlib.import_module("torch")

    class Timed(trl.GRPOTrainer):  # type: ignore[misc,name-defined]
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            with watch.counting("sampling"):
                return super()._generate(*args, **kwargs)

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            with watch.counting("grading"):
                return super()._calculate_rewards(*args, **kwargs)

        def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
            with watch.counting("collecting"):
                found = super()._generate_and_score_completions(*args, **kwargs)
            watch.seconds["prompts"] = found["prompt_mask"].sum(1).tolist()
            watch.seconds["answers"] = found["completion_mask"].sum(1).tolist()
            return found

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            mask = inputs["completion_mask"]
            for name, count in (("rows", len(mask)), ("trained_tokens", int(mask.sum()))):
                watch.seconds[name] = watch.seconds.get(name, 0) + count
            return super()._compute_loss(model, inputs)

    base = transformers.AutoModelForCausalLM.from_pretrained(
        spec.model, dtype=torch.bfloat16, attn_implementation=spec.attention
    ).to(spec.device)
    base.generation_config.top_k = None
    lora = peft.LoraConfig(
        r=spec.lora_rank, lora_alpha=spec.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    rows = [{"prompt": prompt} for prompt in spec.prompts]
    trainer = Timed(
        model=peft.get_peft_model(base, lora, autocast_adapter_dtype=False),
        reward_funcs=_reward,
        args=_arguments(trl, spec, folder),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(spec.model),
        callbacks=[callback],
    )
    trainer.eos_token_ids = [_NO_TOKEN]
    return trainer


def _arguments(trl: Any, spec: StepSpec, folder: str) -> Any:
    rows = spec.groups * spec.group_size
    return trl.GRPOConfig(
        output_dir=folder, max_steps=spec.steps + 1, seed=spec.seed, use_cpu=spec.device == "cpu",
        per_device_train_batch_size=spec.batch, gradient_accumulation_steps=math.ceil(rows / spec.batch),
        num_generations=spec.group_size, max_completion_length=spec.max_tokens, temperature=1.0, top_p=1.0, top_k=0,
        num_iterations=1, beta=0.0, learning_rate=4e-5, lr_scheduler_type="constant", bf16=False,
        gradient_checkpointing=spec.checkpointing, shuffle_dataset=False, generation_kwargs={"eos_token_id": _NO_TOKEN},
        logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip


def _reward(completions: list[Any], **_: Any) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    return [zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32 for text in texts]


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return dataclasses.asdict(measure(StepSpec(**question)))


if __name__ == "__main__":
    serve(_answer)
