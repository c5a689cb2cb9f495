//! What the kernel half logs, by aya-log.

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::readiness::readable;

/// Hands everything that the kernel half logs to this process's logger, until the runtime ends.
pub fn forward(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            log::info!("the kernel half's log cannot be read: {error}");
            return;
        }
    };
    tokio::spawn(async move {
        let mut logger = logger;
        let Ok(fd) = readable(&logger) else { return };
        while let Ok(mut ready) = fd.readable().await {
            ready.clear_ready();
            logger.flush();
        }
    });
}
