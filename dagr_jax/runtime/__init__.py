"""Process services: startup, atomic files, machine facts, energy, compile cache, distribution."""
