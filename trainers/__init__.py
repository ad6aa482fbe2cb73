"""Grouped rollouts and LoRA policy gradient for language models, on any Gymnasium environment that speaks text.

The files in the order in which a batch meets them: `config`, `trajectories`, `rendering`, `policy`, `sampling`,
`rollouts`, `games` and `opponents` (several players), `advantages`, `credit`, `batching`, `losses`, `train`,
`evaluate`, `checkpoints`, `run_log`, `recipes`.
"""
