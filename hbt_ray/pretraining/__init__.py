"""Pretraining of an encoder on texts: sampling of blocks, masking, training objectives, held-out perplexity."""
