"""Training: state and optimizer, pure steps, the device mesh, checkpoints, and the loop."""
