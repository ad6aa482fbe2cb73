"""The learning step: what a batch says about the adapter, in as many optimizer steps as the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainers.advantages import with_kl_penalty
from trainers.batching import Microbatch, Row, microbatches
from trainers.config import TrainConfig
from trainers.corrections import importance_weights, is_bounded
from trainers.credit import Credit
from trainers.losses import kl_estimate, make_loss, sequence_weights
from trainers.optimizer import MasterAdam
from trainers.policy import Policy

Progress = Callable[[int, int], None]
"""Is told how many tokens are done, and of how many."""


@dataclass
class Learned:
    """What came of a learning step.

    Args:
        metrics: its figures; empty where there was nothing to learn from.
        token_advantages: for each trajectory of the credit, what its sampled tokens were given, a price on leaving the
            base model included.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    token_advantages: dict[int, Tensor] = field(default_factory=dict)


def learn(
    policy: Policy,
    optimizer: MasterAdam,
    credit: Credit,
    config: TrainConfig,
    *,
    update: int,
    corrects: bool,
    before_step: Callable[[], None] = lambda: None,
    progress: Progress = lambda *_: None,
) -> Learned:
    """Take the optimizer steps of one batch: `epochs` times `minibatches` of them.

    Of several, all or none: whatever is raised between them, policy and optimizer are then what they were.

    The policy of the ratio is the one that sampled. With `corrects` it is the trainer's own view of that policy, before
    the first step, and what the two differ in is made up for by weights (see `corrections`): the decoupled objective of
    Hilton et al. (2021, arXiv:2110.00641). With gspo, too, for its bounds are narrower than what rounding makes of a
    sampler's bfloat16.

    Args:
        policy: is changed.
        optimizer: of its adapter.
        credit: what to learn from; nothing happens where that is nothing.
        config: all settings.
        update: number of the update, from 0: of the learning rate, and of how groups are dealt out.
        corrects: whether sampler and trainer compute the policy differently.
        before_step: called before the weights change.
        progress: is told how far it has come.
    """
    if not credit.trajectories:
        return Learned()
    minibatches = list(_minibatches(credit, config, update))
    first_epoch = minibatches[: len(minibatches) // config.epochs]
    step = _Step(policy, config, credit, first_epoch, corrects=corrects, progress=progress)
    optimizer.set_learning_rate(config.learning_rate_at(update))
    before = optimizer.copied_state() if config.minibatches * config.epochs > 1 else None
    norms = []
    try:
        for numbers in minibatches:
            step.backward(numbers, optimizer)
            before_step()
            norms.append(optimizer.step(max_grad_norm=config.max_grad_norm))
    except BaseException:
        optimizer.forget_gradients()
        if before is not None:
            optimizer.load_state_dict(before)
        raise
    found = step.metrics(steps=len(norms))
    found["grad_norm"] = sum(norms) / len(norms)
    found["optimizer_steps"] = float(len(norms))
    found["learning_rate"] = config.learning_rate_at(update)
    return Learned(found, step.token_advantages)


def _minibatches(credit: Credit, config: TrainConfig, update: int) -> Iterator[list[int]]:
    """Numbers of the trajectories of each optimizer step; whole groups, dealt anew in every epoch."""
    groups: dict[int, list[int]] = {}
    for number, group in enumerate(credit.group_numbers):
        groups.setdefault(group, []).append(number)
    members = list(groups.values())
    parts = min(config.minibatches, len(members))
    for epoch in range(config.epochs):
        order = np.arange(len(members))
        if parts > 1:
            np.random.default_rng([config.seed, update, epoch]).shuffle(order)
        for part in np.array_split(order, parts):
            yield [number for i in sorted(part.tolist()) for number in members[i]]


class _Step:
    """The passes over one batch, and what they add up to."""

    def __init__(
        self, policy: Policy, config: TrainConfig, credit: Credit, first_epoch: Sequence[Sequence[int]], *,
        corrects: bool, progress: Progress,
    ) -> None:  # fmt: skip
        self._policy = policy
        self._config = config
        self._credit = credit
        self._corrects = corrects
        self._loss = make_loss(config)
        self._progress = progress
        self._lengths = torch.tensor([t.num_action_tokens for t in credit.trajectories])  # [B]
        self._sums: dict[str, float] = {}
        self._tokens = 0
        self._compared = 0
        self._seen = 0
        self.token_advantages: dict[int, Tensor] = {}
        everything = range(len(credit.trajectories))
        self._takes_own = corrects or config.loss == "gspo"
        recomputes = self._takes_own and config.minibatches * config.epochs > 1  # else they come with the one pass
        self._passes = config.epochs + bool(config.kl_coef) + recomputes
        self._base: dict[int, Tensor] = {}
        self._old: dict[int, Tensor] = {}
        if config.kl_coef:
            with policy.playing_as(None):
                self._base = self._logprobs(everything)
        if recomputes:
            for numbers in first_epoch:  # cut as they will be, so that nothing is rounded otherwise
                self._old |= self._logprobs(numbers)
        # One minus the other, so that a batch's mean price is 0.
        self._mean_kl = 0.0
        if config.kl_coef:
            sampled = _sampled_logprobs(credit, everything)
            base = torch.cat([self._base[n].cpu() for n in everything])
            self._mean_kl = float(kl_estimate(sampled, base, config.kl_estimator).mean())

    def backward(self, numbers: Sequence[int], optimizer: MasterAdam) -> None:
        """Add the gradients of one minibatch."""
        config, is_first = self._config, self._tokens == 0
        for batch in self._cut(numbers):
            logprobs = self._policy.logprobs(batch, temperature=config.temperature)
            sampled, weights, old = batch.sampled_logprobs, batch.weights, batch.sampled_logprobs
            if self._takes_own:
                old = _gather(self._old, batch) if self._old else logprobs.detach()
            if self._corrects:
                weights = weights * self._correction(old, sampled, batch.rows)
            advantages = self._advantages(batch)
            found = self._loss(logprobs, old, advantages, batch.rows)
            terms = found.terms
            if config.kl_coef and config.kl_in == "loss":
                terms = terms + config.kl_coef * kl_estimate(logprobs, _gather(self._base, batch), config.kl_estimator)
            loss = (terms * weights).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.collect()
            self._tokens += len(logprobs)
            self._count("loss", float(loss.detach()))
            self._compare(old if self._takes_own else logprobs.detach(), sampled, is_first=is_first)
            self._count("clipped_share", float(found.clipped.sum()))
            self.token_advantages |= _split(advantages, batch)
            self._advance(batch)

    def _advantages(self, batch: Microbatch) -> Tensor:
        config = self._config
        if not (config.kl_coef and config.kl_in == "reward"):
            return batch.advantages
        return with_kl_penalty(
            batch.advantages, batch.sampled_logprobs, _gather(self._base, batch), config.kl_coef,
            mean=self._mean_kl, estimator=config.kl_estimator,
        )  # fmt: skip

    def _correction(self, old: Tensor, sampled: Tensor, rows: Tensor) -> Tensor:
        config = self._config
        weights = importance_weights(
            old, sampled, rows, how="mask" if config.correction == "mask" else "truncate",
            level=config.correction_level, limit=config.correction_limit,
        )  # fmt: skip
        self._count("correction_share", float(is_bounded(weights, limit=config.correction_limit).sum()))
        return weights

    def _compare(self, trained: Tensor, sampled: Tensor, *, is_first: bool) -> None:
        """Note how far sampler and trainer lie apart, while they still mean the same policy: before the first step."""
        if is_first or self._takes_own:
            self._count("logprob_gap", float((trained - sampled).abs().sum()))
            self._compared += len(sampled)

    def metrics(self, *, steps: int) -> dict[str, float]:
        """Means over all sampled tokens that were trained on, each as often as it was; of the loss, over the steps."""
        counts = {"loss": steps, "logprob_gap": self._compared}
        found = {name: value / max(1, counts.get(name, self._tokens)) for name, value in self._sums.items()}
        if self._config.loss in ("importance_sampling", "reinforce"):
            found.pop("clipped_share", None)
        return found | ({"kl": self._mean_kl} if self._config.kl_coef else {})

    @torch.no_grad()
    def _logprobs(self, numbers: Iterable[int]) -> dict[int, Tensor]:
        """By trajectory, its sampled tokens' logprobs under the policy as it is now."""
        found: dict[int, Tensor] = {}
        for batch in self._cut(list(numbers)):
            found |= _split(self._policy.logprobs(batch, temperature=self._config.temperature), batch)
            self._advance(batch)
        return found

    def _cut(self, numbers: Sequence[int]) -> Iterator[Microbatch]:
        config, credit = self._config, self._credit
        all_rows = len(credit.trajectories)
        weights = sequence_weights(
            self._lengths[list(numbers)], config.aggregation, max_tokens=config.max_tokens,
            num_compared=max(credit.compared, all_rows) * len(numbers) / all_rows,
        )  # fmt: skip
        rows = [
            Row(credit.trajectories[n], credit.advantages[n], weight, credit.group_numbers[n])
            for n, weight in zip(numbers, weights.tolist(), strict=True)
        ]
        most = config.microbatch_tokens(self._policy.device.type)
        for batch in microbatches(rows, tokens_per_microbatch=most, share_prefix=config.share_prefix):
            yield batch.of(numbers).to(self._policy.device)

    def _count(self, name: str, value: float) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def _advance(self, batch: Microbatch) -> None:
        self._seen += len(batch.targets)
        self._progress(self._seen, int(self._lengths.sum()) * self._passes)


def _split(values: Tensor, batch: Microbatch) -> dict[int, Tensor]:
    """`[M]` values of a microbatch's sampled tokens, by trajectory."""
    lengths = torch.bincount(batch.rows, minlength=len(batch.numbers)).tolist()
    return dict(zip(batch.numbers, torch.split(values.detach(), lengths), strict=True))


def _gather(by_trajectory: Mapping[int, Tensor], batch: Microbatch) -> Tensor:
    """The reverse: `[M]`."""
    return torch.cat([by_trajectory[number] for number in batch.numbers])


def _sampled_logprobs(credit: Credit, numbers: Iterable[int]) -> Tensor:
    """Of all sampled tokens of some trajectories, under the sampler."""
    return torch.tensor(
        [
            logprob
            for n in numbers
            for logprob, chosen in zip(credit.trajectories[n].logprobs, credit.trajectories[n].is_action, strict=True)
            if chosen
        ]
    )
