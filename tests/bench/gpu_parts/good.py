def measure(plan):
    yield {"what": "sizes", "small": plan.sizes.matrix, "before": [x["name"] for x in plan.before]}
