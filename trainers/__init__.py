"""Grouped rollouts and LoRA policy gradient for language models, on any Gymnasium environment that speaks text.

The files in the order in which a batch meets them:

- settings and parts: `config`, `preflight`, `run`, and `train`, the loop on one page;
- text and tokens: `trajectories`, `rendering`, `policy`, `sampling`;
- a batch: `environments`, `rollouts`, `games` and `opponents` (several players), `collect`, `schedule`;
- a step: `advantages`, `credit`, `batching`, `prefix_attention`, `token_logprobs`, `losses`, `corrections`, `learn`,
  `optimizer`, `memory`;
- what stays: `checkpoints`, `logs`, `report`, `export`;
- how good it is: `evaluation`;
- what people start: `cli`, `recipes`.
"""
