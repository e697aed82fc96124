"""Program -> Kernels: sweeps, carries, tiles."""
