"""Studies: methods of training compared over several seeds, with significance tests and a report."""
