"""What a process needs: start, whole files, machine, energy, kept programs, other processes."""
