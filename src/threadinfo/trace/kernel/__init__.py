"""The kernel as tracing uses it: bpf(2), types, what is compiled and kept, what this machine has and allows."""
