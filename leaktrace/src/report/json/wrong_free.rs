//! Frees that are wrong.

use serde::Serialize;

use super::{Frame, ending};
use crate::model;

#[derive(Serialize)]
pub(super) struct WrongFree<'a> {
    kind: &'static str,
    pid: Option<u32>,
    count: u64,
    bytes: u64,
    verdict: &'a str,
    allocated: CallSite<'a>,
    freed: CallSite<'a>,
    /// Null where the first free is wrong.
    freed_again: Option<CallSite<'a>>,
}

impl<'a> From<&'a model::WrongFree> for WrongFree<'a> {
    fn from(wrong: &'a model::WrongFree) -> Self {
        Self {
            kind: wrong.kind.name(),
            pid: wrong.pid.map(model::Pid::get),
            count: wrong.count,
            bytes: wrong.bytes,
            verdict: &wrong.verdict,
            allocated: CallSite::from(&wrong.allocated),
            freed: CallSite::from(&wrong.freed),
            freed_again: wrong.freed_again.as_ref().map(CallSite::from),
        }
    }
}

/// A call of an allocator's function. Without one that was seen, all is null or empty.
#[derive(Serialize)]
struct CallSite<'a> {
    function: Option<&'a str>,
    module: Option<&'a str>,
    ending: &'static str,
    culprit: Option<usize>,
    frames: Vec<Frame<'a>>,
}

impl<'a> From<&'a model::CallSite> for CallSite<'a> {
    fn from(site: &'a model::CallSite) -> Self {
        Self {
            function: site.function.as_deref(),
            module: site.module.as_deref(),
            ending: ending(site.ending),
            culprit: site.culprit,
            frames: site.frames.iter().map(Frame::from).collect(),
        }
    }
}
