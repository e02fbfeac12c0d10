"""The order of a store's items, computed in memory: what a sampler needs of rows that no store was made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import groupby

from hbt_ray.config import PrepareConfig
from hbt_ray.data.manifest import Group, StoreManifest, WrittenShard, build_manifest
from hbt_ray.data.prepare import count_shards, shard_number

ItemLanguage = tuple[str, str, str, int]  # source, item id, language, number of hard negatives


def order_items(
    rows: Iterable[ItemLanguage], items_per_shard: int = PrepareConfig().items_per_shard
) -> tuple[StoreManifest, dict[str, list[str]]]:
    """Return the manifest that `prepare` writes of some items, and the ids of each source's items in its order.

    It is that of a store without held-out, repeated or decontaminated items.

    1. Collect the languages of each item.
    2. Assign the items to shards by their ids, as `assign_shards` does.
    3. Sort the items of a shard as `write_shard` does: by group, then by id.

    Args:
        rows: each item in each of its languages, once.
        items_per_shard: as `prepare.items_per_shard`.
    """
    # 1.
    items: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    rows_of = Counter[tuple[str, str, str]]()
    for source, item_id, language, negatives in rows:
        items[source, item_id][language] = negatives
        rows_of[source, language, ""] += 1
    # 2.
    num_shards = count_shards(rows_of, items_per_shard)
    # 3.
    ordered = sorted(
        (name[0], shard_number(*name, num_shards[name[0]]), tuple(sorted(languages)), min(languages.values()), name[1])
        for name, languages in items.items()
    )
    shards = []
    for (source, number), of_shard in groupby(ordered, lambda item: item[:2]):
        groups = Counter(Group(languages, negatives) for _, _, languages, negatives, _ in of_shard)
        shards.append(WrittenShard(source, "train", number, "", groups.total(), tuple(groups.items()), ""))
    ids: dict[str, list[str]] = {name: [] for name in num_shards}
    for source, *_, item_id in ordered:
        ids[source].append(item_id)
    return build_manifest(shards, text_fingerprint="", token_type=""), ids
