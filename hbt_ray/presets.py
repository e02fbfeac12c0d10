"""Configurations of `hbt quickstart`: the embedded corpus with three batch strategies."""

from __future__ import annotations

from hbt_ray.config import (
    CorpusConfig,
    EvaluateConfig,
    MixConfig,
    ModelConfig,
    PrepareConfig,
    RunConfig,
    SmallEncoderConfig,
    Strategy,
    TextConfig,
    TrackingConfig,
    TrainConfig,
)

STRATEGIES: tuple[Strategy, ...] = ("x-x-mono", "x-y", "hybrid")
BENCHMARK = "embedded"
UNTRAINED = "untrained"
STEPS = 150


def quickstart_config(strategy: Strategy, seed: int = 0, steps: int = STEPS) -> RunConfig:
    """Return the configuration of one of quickstart's runs; they differ only in the strategy."""
    return RunConfig(
        name=strategy,
        seed=seed,
        corpora=(CorpusConfig(format="embedded"),),
        prepare=PrepareConfig(validation_share=0.0),
        text=TextConfig(max_query_tokens=48, max_passage_tokens=64),
        model=ModelConfig(dropout=0.0, small=SmallEncoderConfig(layers=2, width=128, heads=2, vocabulary=8000)),
        mix=MixConfig(strategy=strategy, alpha=0.5),
        train=TrainConfig(
            steps=steps,
            global_batch_pairs=64,
            chunk_pairs=64,
            learning_rate=1e-3,
            temperature=0.05,
            checkpoint_every=steps,
        ),
        evaluate=EvaluateConfig(benchmarks={BENCHMARK: None}, split="small", figures=False),
        tracking=TrackingConfig(experiment="quickstart"),
    )
