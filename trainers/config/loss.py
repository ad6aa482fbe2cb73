"""From advantages to a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from trainers.config.checks import at_least_one, not_negative, one_of, positive
from trainers.config.errors import ConfigError

LossName = Literal["importance_sampling", "ppo", "cispo", "gspo", "reinforce"]
Aggregation = Literal["token", "sequence", "constant"]
KLIn = Literal["reward", "loss"]
KLEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["auto", "none", "truncate", "mask"]
Level = Literal["token", "sequence"]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The policy-gradient loss, what keeps it near the base model, and how often a batch is used."""

    loss: LossName = "importance_sampling"
    """The ratio of new and old policy times the advantage (importance_sampling); that, clipped (ppo); a clipped ratio
    as a mere weight, so that no token loses its gradient (cispo); one clipped ratio for a whole sequence (gspo); or no
    ratio at all (reinforce)."""
    clip_low: float = 0.2
    """A ratio below 1 - clip_low is clipped. (For gspo use something like 3e-4; the paper of
    cispo has no such bound: clip_low=1.)"""
    clip_high: float = 0.2
    """A ratio above 1 + clip_high is clipped; DAPO has 0.28. (For gspo something like 4e-4, for cispo 4.)"""
    dual_clip: float | None = None
    """With ppo: a ratio above this gives no gradient where the advantage is negative, either; such as 3."""
    aggregation: Aggregation = "token"
    """How tokens are weighed: all alike (token), or every answer alike, whatever its length (sequence); or all alike,
    divided by a constant, max_tokens times the answers of the batch, those included that teach nothing (constant:
    Dr. GRPO)."""
    kl_coef: float = 0.0
    """What it costs to leave the base model, in loss or reward a nat (with advantage=grpo or global, which divide
    rewards by a deviation, in deviations). It keeps a policy from settling on the first
    thing that is better than nothing, before it has seen what is best."""
    kl_in: KLIn = "reward"
    """Where that is taken from."""
    kl_estimator: KLEstimator = "k1"
    """Of the divergence at a sampled token, with r its log-ratio to the base: r (k1), r^2/2 (k2), e^-r - 1 + r (k3).
    As part of the reward use k1. As a loss k1 has no gradient to speak of: use k2, whose gradient is that of the
    divergence from the policy to the base, or k3, whose gradient is that of the other direction."""
    correction: Correction = "auto"
    """Tokens are sampled by one policy and trained as another's where the two are computed differently. Weigh them by
    the ratio, cut at correction_limit (truncate), or leave out those beyond it (mask). auto: truncate where the sampler
    is not the trainer itself."""
    correction_level: Level = "token"
    """Of that ratio: each token's, or its answer's whole product."""
    correction_limit: float = 2.0
    """The largest weight, at least 1."""
    minibatches: int = 1
    """Optimizer steps a batch, each on its share of the groups."""
    epochs: int = 1
    """How often a batch is gone through."""

    def check_loss(self, *, has_full_support: bool) -> None:
        """Raises:
        ConfigError: naming the first setting that cannot work.
        """  # noqa: D205
        one_of(self, "loss", get_args(LossName))
        one_of(self, "aggregation", get_args(Aggregation))
        one_of(self, "kl_in", get_args(KLIn))
        one_of(self, "kl_estimator", get_args(KLEstimator))
        one_of(self, "correction", get_args(Correction))
        one_of(self, "correction_level", get_args(Level))
        positive(self, ("clip_low", "clip_high", "correction_limit"))
        if self.correction_limit < 1:
            raise ConfigError(
                f"correction_limit must be at least 1, the weight where two policies agree, not {self.correction_limit}"
            )
        not_negative(self, ("kl_coef",))
        at_least_one(self, ("minibatches", "epochs"))
        if self.clip_low > 1:
            raise ConfigError(f"clip_low must not be above 1, for no ratio is below 0; it is {self.clip_low}")
        if self.dual_clip is not None and not self.dual_clip > 1 + self.clip_high:
            raise ConfigError(f"dual_clip must be above 1 + clip_high, {1 + self.clip_high}, not {self.dual_clip}")
        if self.kl_coef and self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError("kl_estimator=k1 has a gradient of mean 0 as a loss: use k2 or k3, or kl_in=reward")
        if not has_full_support and self.loss != "reinforce":
            raise ConfigError(
                f"top_p and top_k leave tokens out, and loss={self.loss} needs the ratio of two policies that may say "
                "the same: sample with top_p=1 and top_k=0, or use loss=reinforce"
            )
        if not has_full_support and self.correction in ("truncate", "mask"):
            raise ConfigError("correction needs a ratio, which top_p and top_k leave without a meaning")
