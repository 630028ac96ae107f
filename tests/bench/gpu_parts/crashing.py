import os
import signal


def measure(plan):
    yield {"what": "first"}
    os.kill(os.getpid(), signal.SIGSEGV)
