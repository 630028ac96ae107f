"""`python -m dagr_jax.bench.gpu`: all measurements on one GPU, in one call.

The parts run in this order: hardware and software (`facts`), correctness, the saliency window, the
quality network and the whole model, training steps, and a profile of the two slowest programs. Each
part runs in its own process with a time limit. A part that fails, hangs or has no time left is
reported, and the other parts still run. The results are written after each part.

It needs jax, flax, optax, numpy and jaxtyping. PyTorch is measured if it is installed.
"""
