"""Questions about ways to train, answered: methods over seeds, what is more than chance, and a report."""
