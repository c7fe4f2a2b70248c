"""What a process does, as BPF programs on raw tracepoints see it. Needs root; imported only when asked for."""
