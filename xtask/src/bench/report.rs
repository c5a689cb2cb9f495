//! What leaktrace's JSON report says of a trace.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// A report.
pub(crate) struct Report(Value);

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("leaktrace left no {}", path.display()))?;
        Ok(Self(serde_json::from_str(&text).context("leaktrace talks nonsense")?))
    }

    /// A number by its JSON pointer; `None` when it is null or not there.
    pub(crate) fn number(&self, pointer: &str) -> Option<f64> {
        self.0.pointer(pointer)?.as_f64()
    }

    pub(crate) fn mode(&self) -> &str {
        self.0.pointer("/trace/mode").and_then(Value::as_str).unwrap_or("?")
    }

    /// The stacks, in the report's order.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = Stack<'_>> {
        let stacks = self.0.get("stacks").and_then(Value::as_array);
        stacks.into_iter().flatten().map(Stack)
    }

    /// The losses that are not zero.
    pub(crate) fn losses(&self) -> Vec<String> {
        let lost = self.0.pointer("/health/lost").and_then(Value::as_object);
        let lost = lost.into_iter().flatten();
        lost.filter(|(_, count)| count.as_u64() != Some(0))
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect()
    }
}

/// One of its stacks.
pub(crate) struct Stack<'a>(&'a Value);

impl Stack<'_> {
    pub(crate) fn number(&self, field: &str) -> f64 {
        self.0.get(field).and_then(Value::as_f64).unwrap_or(0.0)
    }

    pub(crate) fn is_growing(&self) -> bool {
        self.0.pointer("/verdict/kind").and_then(Value::as_str) == Some("growing")
    }

    /// Whether a frame is in this function.
    pub(crate) fn has(&self, function: &str) -> bool {
        self.functions().any(|name| name == function)
    }

    /// The first function with a name.
    pub(crate) fn leaf(&self) -> &str {
        self.functions().next().unwrap_or("?")
    }

    fn functions(&self) -> impl Iterator<Item = &str> {
        let frames = self.0.get("frames").and_then(Value::as_array);
        frames.into_iter().flatten().filter_map(|frame| frame.get("function")?.as_str())
    }
}
