"""Samplers: prompt tokens in; sampled tokens, their logprobs and stop reasons out."""

from trainers.sampling.base import Sampler, Session
from trainers.sampling.torch_sampler import TorchSampler

__all__ = ["Sampler", "Session", "TorchSampler"]
