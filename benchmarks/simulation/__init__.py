"""Agent workloads on emulated engines in virtual time, under the scheduler's own core and under published policies."""
