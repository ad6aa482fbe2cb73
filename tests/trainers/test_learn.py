"""The learning step against the same mathematics written out, one trajectory and one token at a time."""

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers import learn as learn_module
from trainers.config import TrainConfig
from trainers.credit import Credit
from trainers.learn import learn
from trainers.optimizer import MasterAdam
from trainers.policy import Policy
from trainers.trajectories import Completion, Trajectory, Turn

CONFIG = TrainConfig(
    model="m", env=("e",), learning_rate=0.02, max_tokens=7, temperature=0.8, clip_low=0.1, clip_high=0.15,
    correction_limit=1.3, tokens_per_microbatch=50, seed=3,
)  # fmt: skip
EPS = 0.05  # of Adam: large, so that a step is a smooth function of the gradient
GROUPS = [0, 0, 0, 2, 2, 3, 3, 3, 5]


@pytest.fixture(scope="module")
def ledgers() -> list[Trajectory]:
    """Nine trajectories of four groups; every third one has two turns."""
    draw = torch.Generator().manual_seed(0)

    def words(count: int) -> list[int]:
        return torch.randint(4, 40, (count,), generator=draw).tolist()

    found = []
    prompts = {group: words(6 + group) for group in set(GROUPS)}
    for number, group in enumerate(GROUPS):
        trajectory = Trajectory(seed=group)
        trajectory.append_prompt(prompts[group])
        for turn in range(1 + (number % 3 == 1)):
            if turn:
                trajectory.append_prompt(words(3))
            said = words(2 + number % 5)
            trajectory.append_completion(Completion(said, [0.0] * len(said), "stop"))
            trajectory.turns.append(Turn("", len(said), 0.0, "stop", "", {}))
        found.append(trajectory)
    return found


def sampled_by(policy: Policy, ledgers: list[Trajectory], *, noise: float) -> Credit:
    """A credit whose sampler was the policy, but for some noise."""
    draw = torch.Generator().manual_seed(1)
    trajectories = copy.deepcopy(ledgers)
    advantages = []
    for trajectory in trajectories:
        values = logprobs_of(policy, trajectory).tolist()
        off = (noise * torch.randn(len(values), generator=draw)).tolist()
        left = iter(a + b for a, b in zip(values, off, strict=True))
        trajectory.logprobs = [next(left) if chosen else 0.0 for chosen in trajectory.is_action]
        advantages.append(torch.randn(len(trajectory.turns), generator=draw).tolist())
    return Credit(trajectories, advantages, GROUPS, [True] * 6, 0)


@torch.no_grad()
def logprobs_of(policy: Policy, trajectory: Trajectory) -> Tensor:
    return _logprobs(policy, trajectory)


def _logprobs(policy: Policy, trajectory: Trajectory) -> Tensor:
    tokens = torch.tensor(trajectory.tokens)
    logits = policy.model(input_ids=tokens[None]).logits[0] / CONFIG.temperature
    every = logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None]).squeeze(1)
    found: Tensor = every[torch.tensor(trajectory.is_action[1:])]
    return found


class Naive:
    """What `learn` promises, without packing, caches or shared code."""

    def __init__(self, policy: Policy, credit: Credit, config: TrainConfig, *, corrects: bool) -> None:
        self.policy, self.credit, self.config, self.corrects = policy, credit, config, corrects
        self.adam = torch.optim.Adam(policy.trainable.values(), lr=config.learning_rate, betas=(0.9, 0.95), eps=EPS)
        everything = credit.trajectories
        self.sampled = [
            torch.tensor([p for p, own in zip(t.logprobs, t.is_action, strict=True) if own]) for t in everything
        ]
        self.before = [logprobs_of(policy, t) for t in everything]
        with policy.model.disable_adapter():
            self.base = [logprobs_of(policy, t) for t in everything]
        self.kl = float(torch.cat([self.estimate(s - b) for s, b in zip(self.sampled, self.base, strict=True)]).mean())
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.clipped: list[Tensor] = []
        self.bounded: list[Tensor] = []

    def estimate(self, r: Tensor) -> Tensor:
        return {"k1": r, "k2": r**2 / 2, "k3": torch.exp(-r) - 1 + r}[self.config.kl_estimator]

    def advantages(self, n: int) -> Tensor:
        trajectory = self.credit.trajectories[n]
        given = [
            a for a, t in zip(self.credit.advantages[n], trajectory.turns, strict=True) for _ in range(t.num_tokens)
        ]
        found = torch.tensor(given)
        if self.config.kl_coef and self.config.kl_in == "reward":
            found = found - self.config.kl_coef * (self.estimate(self.sampled[n] - self.base[n]) - self.kl)
        return found

    def terms(self, n: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each token, and whether it was clipped."""
        config, gain = self.config, self.advantages(n)
        old = self.before[n] if self.corrects or config.loss == "gspo" else self.sampled[n]
        low, high = 1 - config.clip_low, 1 + config.clip_high
        ratio = torch.exp(new - old)
        never = torch.zeros(len(new), dtype=torch.bool)
        if config.loss == "importance_sampling":
            return -ratio * gain, never
        if config.loss == "reinforce":
            return -new * gain, never
        if config.loss == "cispo":
            weight = ratio.detach().clamp(low, high)
            return -weight * gain * new, weight != ratio
        if config.loss == "gspo":
            ratio = torch.exp((new - old).mean()).detach() * torch.exp(new - new.detach())
        worse = torch.minimum(ratio * gain, ratio.clamp(low, high) * gain)
        return -worse, ((gain > 0) & (ratio > high)) | ((gain < 0) & (ratio < low))

    def weights(self, n: int) -> Tensor:
        """Of the correction."""
        config, ratios = self.config, torch.exp(self.before[n] - self.sampled[n])
        if config.correction_level == "sequence":
            ratios = ratios.prod().expand(len(ratios))
        limit = config.correction_limit
        if config.correction == "mask":
            return torch.where((ratios > limit) | (ratios < 1 / limit), 0.0, ratios)
        return ratios.clamp(max=limit)

    def step(self, numbers: list[int]) -> None:
        config, credit = self.config, self.credit
        lengths = [credit.trajectories[n].num_action_tokens for n in numbers]
        total = torch.zeros(())
        for n, length in zip(numbers, lengths, strict=True):
            new = _logprobs(self.policy, credit.trajectories[n])
            terms, clipped = self.terms(n, new)
            if config.kl_coef and config.kl_in == "loss":
                terms = terms + config.kl_coef * self.estimate(new - self.base[n])
            if self.corrects:
                terms = terms * self.weights(n)
                self.bounded.append((self.weights(n) == 0) | (self.weights(n) >= config.correction_limit))
            share = {
                "token": 1 / sum(lengths),
                "sequence": 1 / (len(numbers) * length),
                "constant": 1 / (len(numbers) * 7),
            }
            total = total + share[config.aggregation] * terms.sum()
            self.clipped.append(clipped)
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.policy.trainable.values() if p.grad is not None]
        self.norms.append(float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt()))
        self.losses.append(float(total.detach()))
        self.adam.step()
        self.adam.zero_grad()


def flat(policy: Policy) -> Tensor:
    return flat_of({name: p.detach() for name, p in policy.trainable.items()})


def flat_of(adapter: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in adapter.values()])


def mean(values: list[Tensor]) -> float:
    return float(torch.cat(values).float().mean())


@pytest.fixture
def both(llama_folder, load_policy, ledgers, monkeypatch):
    """Learn twice, by `learn` and written out, and compare everything; gives what `learn` gave and the steps' rows."""

    def run(
        *, corrects: bool = False, noise: float = 0.3, **changes: Any
    ) -> tuple[learn_module.Learned, list[list[int]]]:
        config = dataclasses.replace(CONFIG, **changes)
        ours, theirs = load_policy(llama_folder), load_policy(llama_folder)
        credit = sampled_by(ours, ledgers, noise=noise)
        dealt: list[list[int]] = []
        inner = learn_module._Step.backward
        optimizer = MasterAdam(ours.trainable, learning_rate=9.0, eps=EPS)
        before = ours.snapshot()

        def backward(self: Any, numbers: list[int], optimizer: MasterAdam) -> None:
            dealt.append(list(numbers))
            inner(self, numbers, optimizer)

        with monkeypatch.context() as patch:
            patch.setattr(learn_module._Step, "backward", backward)
            learned = learn(ours, optimizer, credit, config, update=4, corrects=corrects)
        naive = Naive(theirs, credit, config, corrects=corrects)
        for numbers in dealt:
            naive.step(numbers)
        moved = flat(ours) - flat_of(before)
        assert float(moved.abs().max()) > 1e-3
        assert float((flat(ours) - flat(theirs)).norm() / moved.norm()) < 2e-3
        found = learned.metrics
        assert found["loss"] == pytest.approx(sum(naive.losses) / len(dealt), rel=1e-3, abs=1e-6)
        assert found["grad_norm"] == pytest.approx(sum(naive.norms) / len(dealt), rel=1e-3)
        assert (found["optimizer_steps"], found["learning_rate"]) == (len(dealt), 0.02)
        gaps = [(a - b).abs() for a, b in zip(naive.before, naive.sampled, strict=True)]
        own = corrects or config.loss == "gspo"
        compared = list(itertools.chain(*dealt)) if own else dealt[0]
        assert found["logprob_gap"] == pytest.approx(mean([gaps[n] for n in compared]), rel=1e-4)
        if config.loss in ("ppo", "cispo", "gspo"):
            assert found["clipped_share"] == pytest.approx(mean(naive.clipped), abs=1e-6)
        else:
            assert "clipped_share" not in found
        assert ("correction_share" in found) == corrects
        if corrects:
            assert found["correction_share"] == pytest.approx(mean(naive.bounded), abs=1e-6)
        assert found.get("kl") == (pytest.approx(naive.kl, rel=1e-4) if config.kl_coef else None)
        assert learned.token_advantages.keys() == set(range(9))
        for n, given in learned.token_advantages.items():
            torch.testing.assert_close(given, naive.advantages(n), atol=1e-5, rtol=1e-4)
        return learned, dealt

    return run


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo", "gspo", "reinforce"])
def test_every_loss_in_several_steps(both, loss, aggregation):
    learned, _ = both(loss=loss, aggregation=aggregation, minibatches=2, epochs=2)
    if loss in ("ppo", "cispo", "gspo"):
        assert 0.05 < learned.metrics["clipped_share"] < 0.95


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_price_on_leaving_the_base(both, kl_in, estimator, steps):
    learned, _ = both(kl_in=kl_in, kl_estimator=estimator, kl_coef=2.0, minibatches=steps)
    assert abs(learned.metrics["kl"]) > 0.01


def test_the_mean_price_of_a_batch_is_nothing(both):
    with_it, _ = both(kl_coef=2.0)
    without, _ = both()
    one, other = (torch.cat([learned.token_advantages[n] for n in range(9)]) for learned in (with_it, without))
    assert float((one - other).mean()) == pytest.approx(0.0, abs=1e-6)
    assert float((one - other).abs().mean()) > 0.05


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("how", ["auto", "truncate", "mask"])
def test_sampler_and_trainer_differ(both, how, level, steps):
    # With several steps the old logprobs are computed before the first; with one they are those of its own pass.
    learned, _ = both(
        corrects=True, correction=how, correction_level=level, minibatches=steps, loss="ppo" if steps > 1 else "gspo"
    )
    assert 0.1 < learned.metrics["correction_share"] < 0.9
    if steps == 1:
        assert learned.metrics["clipped_share"] == 0.0  # the policy of the ratio is the trainer's own


def test_everything_at_once(both):
    both(
        corrects=True, correction="mask", minibatches=2, epochs=2, loss="cispo", kl_coef=0.5, kl_in="loss",
        kl_estimator="k3", aggregation="sequence",
    )  # fmt: skip


def test_groups_are_dealt_whole_and_anew_in_every_epoch(both):
    _, dealt = both(minibatches=3, epochs=4)
    assert len(dealt) == 12
    epochs = [dealt[i : i + 3] for i in range(0, 12, 3)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(9))
        owners = [{GROUPS[n] for n in part} for part in epoch]
        assert sorted(len(own) for own in owners) == [1, 1, 2]
        assert sum(map(len, owners)) == 4  # no group in two
    assert len({str(epoch) for epoch in epochs}) > 1


def test_there_are_no_more_steps_than_groups(both):
    _, dealt = both(minibatches=64)
    assert [len({GROUPS[n] for n in part}) for part in dealt] == [1, 1, 1, 1]


@pytest.mark.parametrize("corrects", [False, True])
def test_how_memory_is_used_changes_nothing(both, corrects):
    options = {"minibatches": 2, "epochs": 2, "loss": "gspo", "kl_coef": 0.3, "corrects": corrects}
    cut = [both(**options, tokens_per_microbatch=tokens, share_prefix=share) for tokens, share in
           ((1, True), (40, True), (10_000, True), (1, False), (10_000, False))]  # fmt: skip
    for learned, dealt in cut[1:]:
        assert dealt == cut[0][1]
        assert learned.metrics == pytest.approx(cut[0][0].metrics, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_rounding_clips_no_sequence(llama_folder, load_policy, ledgers, minibatches):
    """The bounds of gspo are far narrower than what bfloat16 makes of a sampler's logprobs."""
    policy = load_policy(llama_folder, dtype="bfloat16")
    credit = sampled_by(policy, ledgers, noise=0.05)
    config = dataclasses.replace(
        CONFIG, loss="gspo", clip_low=3e-4, clip_high=4e-4, minibatches=minibatches, learning_rate=1e-30
    )
    optimizer = MasterAdam(policy.trainable, learning_rate=1e-30)
    found = learn(policy, optimizer, credit, config, update=0, corrects=False).metrics
    assert found["clipped_share"] == 0.0
    assert found["logprob_gap"] > 0.01


@pytest.mark.parametrize(("aggregation", "share"), [("constant", 1 / 3), ("token", 1.0), ("sequence", 1.0)])
def test_a_constant_counts_what_is_not_learnt_from(llama_folder, load_policy, ledgers, aggregation, share):
    """With three times as many answers compared as learnt from, every token weighs a third."""
    losses = []
    for compared in (9, 27):
        policy = load_policy(llama_folder)
        credit = dataclasses.replace(sampled_by(policy, ledgers, noise=0.0), compared=compared)
        config = dataclasses.replace(CONFIG, aggregation=aggregation)
        learned = learn(policy, MasterAdam(policy.trainable), credit, config, update=0, corrects=False)
        losses.append(learned.metrics["loss"])
    assert losses[1] == pytest.approx(share * losses[0], rel=1e-5)


# --- What else it promises ---


class Watched(MasterAdam):
    """Writes down what happens, and the types in which gradients are kept."""

    def __init__(self, parameters: Any, events: list[str]) -> None:
        super().__init__(parameters, learning_rate=0.01)
        self.events = events
        self.types: set[torch.dtype] = set()

    def collect(self) -> None:
        super().collect()
        self.events.append("gradient")
        self.types |= {m.grad.dtype for m in self._masters.values() if m.grad is not None}
        assert all(p.grad is None for p in self._parameters.values())

    def step(self, **options: Any) -> float:
        self.events.append("step")
        return super().step(**options)


def test_it_says_so_before_the_weights_change(llama_folder, load_policy, ledgers):
    policy = load_policy(llama_folder, dtype="bfloat16")
    credit = sampled_by(policy, ledgers, noise=0.0)
    events: list[str] = []
    optimizer = Watched(policy.trainable, events)
    first, at = policy.snapshot(), []

    def before_step() -> None:
        events.append("told")
        at.append(all(torch.equal(p, first[name]) for name, p in policy.trainable.items()))

    config = dataclasses.replace(CONFIG, minibatches=2, tokens_per_microbatch=1)
    learn(policy, optimizer, credit, config, update=0, corrects=False, before_step=before_step)
    assert at == [True, False]
    # A gradient is added in float32 after every one of the microbatches; each step collects once more.
    assert [name for name in events if name != "gradient"] == ["told", "step", "told", "step"]
    assert events.count("gradient") == 9 + 2
    assert events[0] == "gradient"
    assert optimizer.types == {torch.float32}


def test_progress_is_told_to_the_end(llama_folder, load_policy, ledgers):
    policy = load_policy(llama_folder)
    credit = sampled_by(policy, ledgers, noise=0.0)
    told: list[tuple[int, int]] = []
    config, optimizer = dataclasses.replace(CONFIG, minibatches=2, epochs=2, kl_coef=0.1), MasterAdam(policy.trainable)
    learn(
        policy,
        optimizer,
        credit,
        config,
        update=0,
        corrects=True,
        progress=lambda done, total: told.append((done, total)),
    )
    tokens = sum(t.num_action_tokens for t in credit.trajectories)
    assert {total for _, total in told} == {4 * tokens}  # the base's pass, the old policy's, and two epochs
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == 4 * tokens


def test_nothing_to_learn_from_changes_nothing(llama_folder, load_policy):
    policy = load_policy(llama_folder)
    optimizer = MasterAdam(policy.trainable)
    before, state = policy.snapshot(), optimizer.copied_state()
    nothing = Credit([], [], [], [False, False], 1)
    for corrects in (False, True):
        config = dataclasses.replace(CONFIG, kl_coef=0.1, epochs=2)
        learned = learn(policy, optimizer, nothing, config, update=0, corrects=corrects, before_step=pytest.fail)
        assert learned == learn_module.Learned({}, {})
    assert all(torch.equal(p, before[name]) for name, p in policy.trainable.items())
    assert optimizer.copied_state()["adam"] == state["adam"]
    assert all(not m.grad for m in optimizer.state_dict()["masters"].values())


@pytest.mark.parametrize(("at", "minibatches", "epochs"), [(2, 2, 2), (4, 2, 2), (1, 1, 1)])
def test_an_error_takes_all_steps_back(llama_folder, load_policy, ledgers, at, minibatches, epochs):
    policy = load_policy(llama_folder)
    credit = sampled_by(policy, ledgers, noise=0.0)
    optimizer = MasterAdam(policy.trainable)
    config = dataclasses.replace(CONFIG, minibatches=minibatches, epochs=epochs)
    learn(policy, optimizer, credit, config, update=0, corrects=False)
    before, state = policy.snapshot(), optimizer.copied_state()
    calls = 0

    def before_step() -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(policy, optimizer, credit, config, update=1, corrects=False, before_step=before_step)
    assert all(torch.equal(p, before[name]) for name, p in policy.trainable.items())
    after = optimizer.state_dict()
    assert all(torch.equal(m, state["masters"][name]) for name, m in after["masters"].items())
    for number, moments in after["adam"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, state["adam"]["state"][number][name])
    assert all(p.grad is None for p in policy.trainable.values())
    assert all(m.grad is None for m in after["masters"].values())
