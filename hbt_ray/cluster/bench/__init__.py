"""Parts of the benchmark that need Ray: each a `bench_...(settings: BenchSettings) -> BenchResult`."""
