"""Ray, and only here: each function maps a pure one over the cluster."""

import os

# Read by Ray when it is imported. Clusters that `ray start` makes ask for the token in the user's ~/.ray/auth_token.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# Also read then: how often Ray Train's controller looks at its workers. They wait for it after each checkpoint.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
