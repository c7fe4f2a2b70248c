"""What a process does, as BPF programs on raw tracepoints see it. Needs root; imported only when asked for."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy's threads are of no use here, and take memory each
