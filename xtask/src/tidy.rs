//! Stub.
use anyhow::Result;
pub(crate) fn check() -> Result<()> {
    Ok(())
}
