"""Seam: `--radix-cache-backend indexcache`, SGLang's radix tree with tail snapshots on its nodes.

Answers to mem_cache/radix_cache.py and mem_cache/registry.py:54. Keys, values, locks and eviction are SGLang's, and
no KV slot is taken for a snapshot; this class only notices where a prompt or a sequence ends, and takes the records
of a node along when it is split or goes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BACKEND_NAME, BOTH, BrokenSeamError, Seam, SeamError
from sgl_indexcache.sglang_port.proof import stop
from sgl_indexcache.store import SnapshotSlots
from sgl_indexcache.store.check import TreeNode
from sgl_indexcache.store.tails import Tail, Tails

if TYPE_CHECKING:
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext


def tree_class() -> type[Any]:
    """The tree's class; a function, since its base class is SGLang's."""
    global _class
    if _class is not None:
        return _class
    from sglang.srt.mem_cache.radix_cache import RadixCache

    class IndexRadixCache(RadixCache):  # type: ignore[misc, unused-ignore]
        """SGLang's RadixCache; `held` are the nodes with snapshots. Raises nothing of its own."""

        def __init__(self, params: Any, store: SnapshotSlots) -> None:
            self.store = store
            self.held: dict[Any, Tails] = {}
            self._inserted: Any = None
            super().__init__(params)

        def tails_after(self, node: Any) -> list[Tail]:
            """The tails of the prefix that ends with `node`."""
            tails = self.held.get(node)
            return list(tails.at(len(node.key))) if tails else []

        def nodes(self) -> Iterator[TreeNode]:
            """Every node with snapshots, for store/check.py."""
            for node, tails in self.held.items():
                end, above = 0, node
                while above is not self.root_node and above is not None:
                    end += len(above.key)
                    above = above.parent
                parent = node.parent if above is self.root_node else None
                alive = parent is not None and parent.children.get(node.key.child_key(self.page_size)) is node
                yield TreeNode(tails, len(node.key), end, node.key.extra_key, alive)

        def forget(self) -> None:
            """Drop every snapshot; the KV stays."""
            self.store.forget()
            self.held.clear()

        def reset(self) -> None:
            super().reset()
            self.forget()

        def insert(self, params: Any) -> Any:
            result = super().insert(params)
            self._inserted = result.last_device_node
            return result

        def cache_unfinished_req(self, req: Any, chunked: bool = False) -> None:
            super().cache_unfinished_req(req, chunked=chunked)
            if self.disable or chunked:
                return
            end = req.extend_range.end
            first = (end - 1) // self.page_size * self.page_size
            if first > 0:
                tokens = req.full_untruncated_fill_ids[first:end]
                self._keep(req, req.last_node, req.cache_protected_len - first, first, tokens)

        def cache_finished_req(self, req: Any, is_insert: bool = True, *, kv_len_to_handle: int) -> None:
            self._inserted = None
            super().cache_finished_req(req, is_insert=is_insert, kv_len_to_handle=kv_len_to_handle)
            first = (kv_len_to_handle - 1) // self.page_size * self.page_size
            if self._inserted is not None and first > 0:
                aligned = kv_len_to_handle // self.page_size * self.page_size
                self._keep(req, self._inserted, aligned - first, first, _between(req, first, kv_len_to_handle))
            self._inserted = None
            self.store.end(req.req_pool_idx)

        def _keep(self, req: Any, node: Any, beyond: int, first: int, tokens: Any) -> None:
            """Keep the snapshot of the rows of `tokens`, which begin at position `first`.

            What is cached ends with `node`, `beyond` (0 or a page) tokens after `first`. The root is nobody's
            prefix, since it stands for every namespace: `first` is positive.
            """
            offset = len(node.key) - beyond
            if offset == 0:
                node = node.parent
                offset = len(node.key)
            tails = self.held.get(node)
            if tails is None:
                tails = Tails()
            if self.store.keep(req.req_pool_idx, req.rid, tails, offset, first, tokens, node.key.extra_key):
                self.held[node] = tails

        def _split_node(self, key: Any, child: Any, split_len: int) -> Any:
            head = super()._split_node(key, child, split_len)
            tails = self.held.pop(child, None)
            if tails:
                before = tails.split(split_len)
                for node, part in ((head, before), (child, tails)):
                    if part:
                        self.held[node] = part
            return head

        def _delete_leaf(self, node: Any) -> None:
            super()._delete_leaf(node)
            tails = self.held.pop(node, None)
            if tails:
                self.store.drop(tails)

    _class = IndexRadixCache
    return _class


def _between(req: Any, first: int, end: int) -> Any:
    """Tokens of a request from position `first` to `end`, without copying the others."""
    prompt = len(req.origin_input_ids)
    if first >= prompt:
        return req.output_ids[first - prompt : end - prompt]
    return req.origin_input_ids[first:end] + req.output_ids[: max(0, end - prompt)]


_class: type[Any] | None = None


def create(context: "TreeCacheBuildContext") -> Any:
    """The tree of this scheduler. Prints one sentence and exits the process when it cannot be built."""
    from sglang.srt.mem_cache.registry import default_radix_cache_factory

    try:
        if context.disable_radix_cache:
            return default_radix_cache_factory(context)
        if context.enable_hierarchical_cache or context.is_hybrid_swa or context.is_hybrid_ssm:
            raise SeamError(f"--radix-cache-backend {BACKEND_NAME} holds one plain KV pool only; drop the flag")
        if runtime.current.store is None:
            raise SeamError(
                f"--radix-cache-backend {BACKEND_NAME} found no index store: set store.enabled to true and use "
                f"--attention-backend {BACKEND_NAME}, or drop the flag"
            )
        runtime.current.tree = tree_class()(context.params, runtime.current.store)
        return runtime.current.tree
    except UserError as error:
        stop(error)


def _register() -> None:
    from sglang.srt.mem_cache.registry import get_radix_cache_factory, register_radix_cache_backend

    if get_radix_cache_factory(BACKEND_NAME) is None:
        register_radix_cache_backend(BACKEND_NAME, create)


def _probe() -> str:
    from sglang.srt.mem_cache.radix_cache import RadixCache
    from sglang.srt.mem_cache.registry import get_radix_cache_factory

    if get_radix_cache_factory(BACKEND_NAME) is not create:
        raise BrokenSeamError(f"the radix cache backend {BACKEND_NAME} is not ours")
    for name in ("reset", "insert", "cache_unfinished_req", "cache_finished_req", "_split_node", "_delete_leaf"):
        if name not in vars(RadixCache):
            raise BrokenSeamError(f"RadixCache.{name} does not exist")
    return f"--radix-cache-backend {BACKEND_NAME} is registered"


SEAM = Seam(
    name="radix",
    purpose=f"register --radix-cache-backend {BACKEND_NAME}",
    devices=BOTH,
    register=_register,
    probe=_probe,
)
