"""Ray, and only here: each function maps a pure one over the cluster."""

import os

# Read by Ray when it is imported. Clusters that `ray start` makes ask for the token in the user's ~/.ray/auth_token.
os.environ.setdefault("RAY_AUTH_MODE", "token")
