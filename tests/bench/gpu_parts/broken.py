def measure(plan):
    yield {"what": "first"}
    raise RuntimeError("no such\ncard")
