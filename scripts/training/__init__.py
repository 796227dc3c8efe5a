"""Training runs whose snapshots are worth measuring on: real networks, real data, the optimizers people use."""
