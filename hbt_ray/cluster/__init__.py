"""The Ray side of every stage: each function runs a Ray-free one on the cluster. No other package imports Ray."""

import os

# Ray reads these variables when it is imported.
# Clusters started by `ray start` require the token in the user's ~/.ray/auth_token.
os.environ.setdefault("RAY_AUTH_MODE", "token")

# Seconds between the polls of Ray Train's controller. After each checkpoint the workers wait for its next poll.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

# Ray's own log lines (information, warnings and errors of its C++ code) stay in its log files.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"^\[\d{4}-\d\d-\d\d [\d:,]+ [IWE] \d+ \d+\] \w+\.cc:\d+")
