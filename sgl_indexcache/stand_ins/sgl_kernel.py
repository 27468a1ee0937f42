"""Stand-in for `sgl_kernel`: the names that SGLang 0.5.17 imports whenever it runs on a CPU.

A module, not a package: `from sgl_kernel.x import y` must stay an ImportError, since SGLang's fallbacks hang
on it. All nine serve speculative decoding or copies of the KV pool; serving a DSA model calls none of them.
"""

from sgl_indexcache.stand_ins.missing import missing

__version__ = "0.0.0+standin"

assign_draft_cache_locs_contiguous_cpu = missing(__name__, "assign_draft_cache_locs_contiguous_cpu")
assign_extend_cache_locs_cpu = missing(__name__, "assign_extend_cache_locs_cpu")
assign_req_to_token_pool_cpu = missing(__name__, "assign_req_to_token_pool_cpu")
build_tree_kernel_efficient_cpu = missing(__name__, "build_tree_kernel_efficient_cpu")
copy_all_layer_kv_cache_cpu = missing(__name__, "copy_all_layer_kv_cache_cpu")
fill_accept_out_cache_loc_cpu = missing(__name__, "fill_accept_out_cache_loc_cpu")
fill_bonus_tokens_cpu = missing(__name__, "fill_bonus_tokens_cpu")
rotate_input_ids_cpu = missing(__name__, "rotate_input_ids_cpu")
verify_tree_greedy_cpu = missing(__name__, "verify_tree_greedy_cpu")
