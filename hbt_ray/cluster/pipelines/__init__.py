"""Whole runs, which join the stages: train, pretrain, study, quickstart."""
