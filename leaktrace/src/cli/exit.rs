//! Exit codes, and what is said on the way out.

use std::io;

use anyhow::Result;
use thiserror::Error;

use super::chosen::ChosenError;
use super::say::say;
use crate::probe::features::HostError;
use crate::target::TargetError;
use crate::target::container::ContainerError;

/// The arguments make no sense, or an output file cannot be written.
pub const USAGE: u8 = 2;
/// Not permitted, or the kernel or the target lacks what is needed.
pub const IMPOSSIBLE: u8 = 3;
/// Too much was missed for a verdict.
pub const INCOMPLETE: u8 = 4;
/// No such process, or it ended before tracing began.
pub const NO_PROCESS: u8 = 5;

/// An error in what the user asked for.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The exit code of a command's result; an error is printed.
pub fn code(result: Result<u8>) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    // `leaktrace ... | head` is a success.
    if is_broken_pipe(&error) {
        return 0;
    }
    // An error may quote the target: nothing of it reaches the terminal as it is.
    let message = format!("{error:#}");
    let lines: Vec<String> = message.lines().map(crate::model::printable).collect();
    say(format_args!("leaktrace: {}", lines.join("\n")));
    code_of(&error)
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<UsageError>() {
            return USAGE;
        }
        if let Some(error) = cause.downcast_ref::<TargetError>() {
            return match error {
                TargetError::Gone { .. } | TargetError::Zombie { .. } => NO_PROCESS,
                _ => IMPOSSIBLE,
            };
        }
        if cause.is::<ChosenError>() {
            return NO_PROCESS;
        }
        match cause.downcast_ref() {
            Some(ContainerError::Unknown(_)) => return NO_PROCESS,
            Some(ContainerError::Ambiguous { .. }) => return USAGE,
            None => {}
        }
        if cause.is::<HostError>() {
            return IMPOSSIBLE;
        }
    }
    IMPOSSIBLE
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;
    use crate::model::Pid;

    #[test]
    fn each_kind_of_error_has_its_code() {
        let gone = TargetError::Gone { pid: Pid::new(1).unwrap() };
        let wrapped = Err::<u8, _>(gone).context("attaching");
        assert_eq!(code_of(&wrapped.unwrap_err()), NO_PROCESS);
        assert_eq!(code_of(&UsageError("no".into()).into()), USAGE);
        assert_eq!(code_of(&HostError::NoBtf.into()), IMPOSSIBLE);
        assert_eq!(code(Err(io::Error::from(io::ErrorKind::BrokenPipe).into())), 0);
    }
}
