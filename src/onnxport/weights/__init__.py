"""Open checkpoints, check them before anything is read, and load models whose every parameter is accounted for."""
