//! All maps.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE},
    btf_maps,
    helpers::generated::{bpf_get_current_task_btf, bpf_task_storage_get},
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use leaktrace_ebpf::{
    records::{Block, Counters, MAX_TARGETS, Mappings, StackTotals, Target, Watched},
    unwind::{CHUNK_WORDS, MAX_CHUNKS},
};

use crate::kernel::{thread::Thread, unwind::rules::RememberedRules};

/// Live blocks by [`leaktrace_ebpf::records::block_key`]. Userspace sets the capacity.
#[map]
pub(crate) static BLOCKS: HashMap<u64, Block> =
    HashMap::with_max_entries(1 << 21, BPF_F_NO_PREALLOC);

/// Totals by stack id. Userspace sets the capacity, and puts in
/// [`leaktrace_ebpf::records::UNKNOWN_STACK`].
#[map]
pub(crate) static STACKS: HashMap<u64, StackTotals> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// The address spaces under trace, by slot.
#[map]
pub(crate) static TARGETS: Array<Target> = Array::with_max_entries(MAX_TARGETS, 0);

/// The processes whose exec matters, by thread-group id.
#[map]
pub(crate) static WATCHED: HashMap<u32, Watched> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// Counters by [`leaktrace_ebpf::records::Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Messages to userspace: frames of new stacks, execs.
#[map]
pub(crate) static MESSAGES: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Unwind tables, in chunks (see [`leaktrace_ebpf::unwind`]); userspace adds them.
#[btf_map]
pub(crate) static TABLES: btf_maps::ArrayOfMaps<
    btf_maps::Array<[u64; CHUNK_WORDS], 1>,
    { MAX_CHUNKS as usize },
> = btf_maps::ArrayOfMaps::new();

/// Where in `TABLES` the mappings of each target are, by slot.
#[map]
pub(crate) static MAPPINGS: Array<Mappings> = Array::with_max_entries(MAX_TARGETS, 0);

/// Rules found lately.
#[map]
pub(crate) static RULES: Array<RememberedRules> = Array::with_max_entries(1, 0);

/// What is kept for each thread of a target; gone with the thread. aya-ebpf has no type for task
/// storage, so this is the map definition that its loader reads from BTF, spelled out.
#[btf_map]
pub(crate) static THREADS: TaskStorage = TaskStorage {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

const BPF_MAP_TYPE_TASK_STORAGE: usize = 29;

#[repr(C)]
pub(crate) struct TaskStorage {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE],
    key: *const i32,
    value: *const Thread,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers are placeholders that only describe the map to the loader.
unsafe impl Sync for TaskStorage {}

impl TaskStorage {
    #[inline(always)]
    fn get(&self, flags: u64) -> Option<&'static mut Thread> {
        // SAFETY: the kernel returns null or this thread's own value, which lives as long as the
        // thread does, and handlers of one thread don't overlap.
        unsafe {
            let task = bpf_get_current_task_btf();
            let map = core::ptr::from_ref(self).cast_mut().cast();
            bpf_task_storage_get(map, task, core::ptr::null_mut(), flags).cast::<Thread>().as_mut()
        }
    }

    /// The present thread's state, made if need be.
    #[inline(always)]
    pub(crate) fn get_or_create(&self) -> Option<&'static mut Thread> {
        self.get(BPF_LOCAL_STORAGE_GET_F_CREATE as u64)
    }

    /// The present thread's state, if it has one.
    #[inline(always)]
    pub(crate) fn get_existing(&self) -> Option<&'static mut Thread> {
        self.get(0)
    }
}
