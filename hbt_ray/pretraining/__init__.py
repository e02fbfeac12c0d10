"""Pretraining an encoder on texts: which of them stand in which batch, what is masked, and how it is measured."""
