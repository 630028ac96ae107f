"""`python -m dagr_jax.bench.gpu`: all that is to be measured on one GPU, in one call.

The parts are, in this order: what is there (`facts`), correctness, the saliency window, the quality
network and the whole model, training steps, and a profile of the two slowest programs. Each part
runs in a process of its own under a time limit. A part that fails, hangs or finds no time left is
named, the rest goes on, and the results are written after each part.

Needs jax, flax, optax, numpy and jaxtyping. PyTorch is measured where it is installed.
"""
