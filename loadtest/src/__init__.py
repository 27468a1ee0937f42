"""Load generation: workloads, traces, the client and the report."""
