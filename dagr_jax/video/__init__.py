"""Video files to uint8 RGB frames: which frames, decoding, resizing. No JAX here."""
