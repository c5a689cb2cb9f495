//! All maps.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE},
    btf_maps,
    helpers::generated::{bpf_get_current_task_btf, bpf_task_storage_get},
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, Queue, RingBuf},
};
use leaktrace_ebpf::{
    blocks::Bucket,
    family::{Freed, WrongFree, WrongFrees},
    records::{Child, Counters, MAX_TARGETS, Mappings, SlotHits, StackTotals, Target, Watched},
    trial::TRIAL_COUNT,
    unwind::{CHUNK_WORDS, MAX_CHUNKS},
};

use crate::kernel::{thread::Thread, unwind::rules::RememberedRules};

/// Live blocks, see [`leaktrace_ebpf::blocks`]. Userspace sets the size, and maps it.
#[map]
pub(crate) static BLOCKS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Totals of stacks, see [`leaktrace_ebpf::stacks`]. Userspace sets the size, and maps it.
#[map]
pub(crate) static STACKS: Array<StackTotals> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// The address spaces under trace, by slot.
#[map]
pub(crate) static TARGETS: Array<Target> = Array::with_max_entries(MAX_TARGETS, 0);

/// The processes whose exec matters, by thread-group id.
#[map]
pub(crate) static WATCHED: HashMap<u32, Watched> = HashMap::with_max_entries(2 * MAX_TARGETS, 0);

/// Where children are followed: the processes under trace, by slot.
#[map]
pub(crate) static CHILDREN: Array<Child> = Array::with_max_entries(MAX_TARGETS, 0);

/// The slots that children may take.
#[map]
pub(crate) static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(MAX_TARGETS, 0);

/// Counters by [`leaktrace_ebpf::records::Counter`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Probe hits by slot.
#[map]
pub(crate) static HITS: PerCpuArray<SlotHits> = PerCpuArray::with_max_entries(MAX_TARGETS, 0);

/// What was counted where probes are tried, by [`leaktrace_ebpf::trial::Trial`].
#[map]
pub(crate) static TRIALS: Array<u64> = Array::with_max_entries(TRIAL_COUNT as u32, 0);

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

/// Blocks freed lately, by [`leaktrace_ebpf::records::block_key`]. Userspace sets the size where
/// frees are checked.
#[map]
pub(crate) static FREED: LruHashMap<u64, Freed> = LruHashMap::with_max_entries(64, 0);

/// Wrong frees. Userspace sets the size, as above.
#[map]
pub(crate) static WRONG_FREES: HashMap<WrongFree, WrongFrees> = HashMap::with_max_entries(1, 0);

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
        // thread does, and handlers of one thread don't overlap. Who calls the one function that asks
        // again, `walk_frames`, touches nothing meanwhile, as with any helper that is given the pointer.
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
