//! What is left of an attach that fails.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;
use crate::cli::hit_cost::HitCost;
use crate::collect::UnwindTables;
use crate::probe::Settings;
use crate::target::PlanOptions;

struct Trace {
    terms: Terms,
    maps: KernelMaps,
    unwinding: Unwinding,
}

fn trace() -> Trace {
    let settings = Settings { max_blocks: 1024, max_stacks: 1024, ..Settings::default() };
    let mut kernel = Kernel::load(&settings).expect("the tests run as root");
    let (maps, _) = KernelMaps::take(kernel.ebpf(), settings.terms()).unwrap();
    let unwinding = Unwinding::new(UnwindTables::take(kernel.ebpf()).unwrap());
    let terms = Terms {
        kernel: Arc::new(Mutex::new(kernel)),
        hit_cost: Arc::new(HitCost::default()),
        budget: None,
        plan: PlanOptions::default(),
        follow: false,
    };
    Trace { terms, maps, unwinding }
}

/// A process that waits for its input, planned.
fn planned(options: &PlanOptions) -> (Child, Process, Image, Plan) {
    let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = Pid::new(child.id()).unwrap();
    for _ in 0..1000 {
        let process = Process::open(pid).unwrap();
        let image = Image::capture(pid).unwrap();
        match Plan::make(&image, &process.exe, options) {
            Ok(plan) => return (child, process, image, plan),
            // It has not been executed yet, or its libraries are not mapped.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("no allocator");
}

/// Each attach to a process that was gone took a chunk of the unwind tables for good, and those of
/// builds are many.
#[test]
fn attaching_to_processes_that_are_gone_does_not_use_up_the_unwind_tables() {
    let Trace { terms, mut maps, mut unwinding } = trace();
    let (mut child, process, image, plan) = planned(&terms.plan);
    let chunk_of_next = |maps: &mut KernelMaps, unwinding: &mut Unwinding| {
        let mut space = AddressSpace::new(image.clone(), unwinding);
        space.tell(Slot(1), unwinding, maps, true).unwrap();
        let chunk = space.take_chunk().unwrap();
        unwinding.give_back(Some(chunk));
        chunk
    };
    let chunk = chunk_of_next(&mut maps, &mut unwinding);
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..3 {
        let attached = Traced::attach_planned(
            &terms,
            process.clone(),
            plan.clone(),
            AddressSpace::new(image.clone(), &mut unwinding),
            Slot(0),
            &HashSet::new(),
            &mut maps,
            &mut unwinding,
        );
        let error = attached.err().unwrap();
        assert!(matches!(error.downcast_ref(), Some(TargetError::Gone { .. })), "{error:#}");
    }
    assert_eq!(chunk_of_next(&mut maps, &mut unwinding), chunk);
    // Nor is it two address spaces' at once.
    let both = [0, 1].map(|slot| {
        let mut space = AddressSpace::new(image.clone(), &mut unwinding);
        space.tell(Slot(slot), &mut unwinding, &mut maps, true).unwrap();
        space.take_chunk()
    });
    assert_ne!(both[0], both[1]);
}
