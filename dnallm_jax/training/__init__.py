"""Pre-training and fine-tuning: one loop, two objectives, checkpoints and telemetry."""
