"""What a run says of itself, while it goes and for afterwards.

`metrics` (the figures), `run_log` (the files, and whom they are shown to), `display` and `charts` (the terminal),
`advice` (a sentence when something is off), `trackers` (TensorBoard, W&B, trackio).
"""
