"""Parameters of small estimators with targets."""

N = 240
SMALL = {
    "target_weight": 40.0,
    "likelihood": "gaussian",
    "latent_dim": 2,
    "hidden_sizes": (16,),
    "max_epochs": 15,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "quality": "fast",
    "random_state": 0,
}
