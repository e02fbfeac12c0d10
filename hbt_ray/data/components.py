"""Find the items that have texts in common, in any language: they are held out together, and answer each other.

Two items are linked if a question of one equals a question of the other, or a passage a passage; the languages may
differ. Texts are compared as `normalize_for_matching` returns them. Items that are linked directly or by other items
form a connected component.

Items and texts are 64-bit hashes here, so neither texts nor names pass through the driver.

Legend: T texts, E links, M items that are in a component.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hbt_ray.utils.counter_rng import Salt, mix, stable_hash64

TEXT_KEYS = pa.schema([("key", pa.uint64()), ("item", pa.uint64()), ("is_negative", pa.bool_())])
# A link between two items, or an item with one of its passages that is a hard negative of some item.
LINKS = pa.schema([("item", pa.uint64()), ("other", pa.uint64()), ("negative_key", pa.uint64())])
_NAMES_IN_MEMORY = 1 << 14
MAX_LINKS = 1 << 24  # collected before they are joined: 256 MiB


def item_key(source: str, item_id: str) -> int:
    """Return the hash of an item's name. It also decides whether an item without links is held out."""
    return stable_hash64(Salt.SPLIT, source, item_id)


def text_key(side: str, normal: str) -> int:
    """Return the hash of a text of a side, "question" or "passage", that is normalized for matching."""
    return stable_hash64(side, normal)


def list_text_keys(rows: pa.Table) -> pa.Table:
    """List the texts of accepted rows with their items, as `TEXT_KEYS`.

    Args:
        rows: a table of `ROWS`.
    """
    accepted = rows.filter(pc.is_null(rows.column("rejected"))).combine_chunks()
    items = item_keys(accepted)
    negatives = accepted.column("negative_keys")
    negative_items = items[pc.list_parent_indices(negatives).to_numpy()]
    sides = [
        (accepted.column("question_key"), items, False),
        (accepted.column("passage_key"), items, False),
        (pc.list_flatten(negatives), negative_items, True),
    ]
    tables = [
        pa.table([keys, pa.array(of_keys, pa.uint64()), pa.array([is_negative] * len(of_keys), pa.bool_())], TEXT_KEYS)
        for keys, of_keys, is_negative in sides
    ]
    listed = pa.concat_tables(tables)
    return listed.filter(pc.is_valid(listed.column("key")))


def item_keys(rows: pa.Table) -> np.ndarray:
    """Return the key of each row's item, (rows,) uint64."""
    batches = rows.select(["source", "item_id"]).to_batches(max_chunksize=_NAMES_IN_MEMORY)
    names = (name for batch in batches for name in zip(*(column.to_pylist() for column in batch), strict=True))
    return np.fromiter((item_key(*name) for name in names), np.uint64, rows.num_rows)


def link_items(keys: pa.Table) -> pa.Table:
    """Link the items that have a text in common, as `LINKS`: the first of them by key to each other one.

    Args:
        keys: a table of `TEXT_KEYS` with all rows of its keys.
    """
    key, item, is_negative = (keys.column(name).to_numpy() for name in TEXT_KEYS.names)
    order = np.lexsort((item, is_negative, key))
    key, item, is_negative = key[order], item[order], is_negative[order]
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
    first = np.repeat(starts, np.diff(np.append(starts, len(key))))  # (T,) the first row of each row's key
    is_passage_of_an_item = ~is_negative[first]
    linked = np.flatnonzero(is_passage_of_an_item & ~is_negative & (item != item[first]))
    links = np.unique(np.stack([item[first[linked]], item[linked]]), axis=1)
    used = np.flatnonzero(is_passage_of_an_item & is_negative)
    used = used[np.unique(key[used], return_index=True)[1]]
    owners = item[first[used]]
    return pa.table(
        [
            pa.array(np.concatenate([links[0], owners])),
            pa.array(np.concatenate([links[1], owners])),
            pa.array([None] * links.shape[1] + key[used].tolist(), pa.uint64()),
        ],
        LINKS,
    )


@dataclass(frozen=True)
class ItemComponents:
    """The components of linked items. A component is named by the key of one of its items.

    An item without links has no component, unless one of its passages is a hard negative of some item.
    """

    items: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # (M,) keys, sorted
    components: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # (M,)
    sizes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # (M,) items in the item's component
    negative_keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # sorted
    negative_components: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # of `negative_keys`

    def of_items(self, keys: np.ndarray) -> np.ndarray:
        """Return the component of each item, 0 for one without: (N,) uint64 -> (N,) uint64."""
        return _look_up(keys, self.items, self.components)

    def of_negatives(self, text_keys: np.ndarray) -> np.ndarray:
        """Return the component of the items that have each text as a passage, 0 if none has: (N,) -> (N,) uint64."""
        return _look_up(text_keys, self.negative_keys, self.negative_components)

    def held_out(self, keys: np.ndarray, fraction: float, num_items: int) -> np.ndarray:
        """Decide which items are held out: all of a component or none, (N,) uint64 -> (N,) bool.

        The hash that names the component decides, so the expected fraction of items is that of the setting, and a
        held-out component stays held out at any larger fraction. A component of more than `fraction * num_items` items
        is never held out.
        """
        components = self.of_items(keys)
        sizes = _look_up(keys, self.items, self.sizes)
        chosen = np.where(components == 0, keys, components) < math.ceil(fraction * 2**64)
        held_out: np.ndarray = chosen & (sizes <= max(1.0, fraction * num_items))
        return held_out

    def held_out_negatives(self, text_keys: np.ndarray, fraction: float, num_items: int) -> np.ndarray:
        """Return which texts are passages of items that are held out: (N,) uint64 -> (N,) bool."""
        names = self.of_negatives(text_keys)  # each is that of an item
        held_out: np.ndarray = (names != 0) & self.held_out(names, fraction, num_items)
        return held_out


def find_components(links: Iterable[pa.Table]) -> ItemComponents:
    """Join links to components. The memory needed is that of MAX_LINKS links or of twice the items that have links.

    1. Collect links; when there are MAX_LINKS, replace them by one link of each item to its component. Do so again when
       there are twice as many as that left, so that the links of N items are joined log2(N / MAX_LINKS) times.
    2. Name each component by an item's key. The choice is by another hash of the keys: the smallest key itself would be
       held out the more often, the larger a component is.

    Args:
        links: tables of `LINKS`.
    """
    # 1.
    collected: list[np.ndarray] = []  # (2, links) each
    limit = MAX_LINKS
    negative_keys, owners = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for table in links:
        pairs = np.stack([table.column(name).to_numpy() for name in ("item", "other")])
        collected.append(pairs)
        is_negative = table.column("negative_key").is_valid().to_numpy()
        negative_keys.append(table.column("negative_key").drop_null().to_numpy())
        owners.append(pairs[0, is_negative])
        if sum(one.shape[1] for one in collected) > limit:
            collected = [np.stack(_join(np.concatenate(collected, axis=1)))]
            limit = max(MAX_LINKS, 2 * collected[0].shape[1])
    # 2.
    items, components = _join(np.concatenate([np.empty((2, 0), np.uint64), *collected], axis=1))
    _, numbers, counts = np.unique(components, return_inverse=True, return_counts=True)
    keys, first = np.unique(np.concatenate(negative_keys), return_index=True)
    owners_of_keys = np.concatenate(owners)[first]
    return ItemComponents(items, components, counts[numbers], keys, _look_up(owners_of_keys, items, components))


def _join(links: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted items of links (2, E), and the name of each item's component, (M,) uint64 each."""
    items, numbers = np.unique(links, return_inverse=True)
    numbers = numbers.reshape(links.shape)
    graph = coo_matrix((np.ones(links.shape[1], np.int8), (numbers[0], numbers[1])), (len(items), len(items)))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(mix(items), kind="stable")
    label_values, first = np.unique(labels[order], return_index=True)  # all labels: 0, 1, ...
    names = items[order[first]]
    return items, names[labels] if len(label_values) else items


def _look_up(keys: np.ndarray, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the value of each key, 0 for one that is not among the sorted known ones."""
    if not len(known):
        return np.zeros(len(keys), values.dtype)
    positions = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[positions] == keys, values[positions], values.dtype.type(0))
