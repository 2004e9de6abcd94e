//! Ctrl-C while an answer is waited for: it ends the query.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use vigie_protocol::result::ModuleResult;

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::progress::ProgressLine;
use crate::query::Question;

/// Time in which a signal arrives that was sent before.
const STALE: Duration = Duration::from_millis(1);

/// Takes SIGINT from now on, as long as the process lives. At a prompt the terminal sends none.
pub(super) struct Interrupts {
    runtime: Runtime,
    signal: Signal,
}

impl Interrupts {
    /// Begins to take SIGINT.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signal = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        Ok(Self { runtime, signal })
    }

    /// Asks until there is an answer or the first SIGINT; then the connection is closed, at which the agent gives the
    /// query up.
    pub(super) fn ask(
        &mut self,
        question: Question,
        client: &mut Client,
        line: Option<ProgressLine>,
    ) -> Result<ModuleResult, Failure> {
        let module = question.module.clone();
        let connection = client.handle()?;
        let (over, answered) = oneshot::channel::<()>();
        let (result, interrupted) = std::thread::scope(|scope| {
            let asking = scope.spawn(move || {
                let result = question.ask_on(client, line);
                drop(over);
                result
            });
            let interrupted = self.runtime.block_on(async {
                // One that came while nothing was asked ends nothing that is asked later.
                drop(timeout(STALE, self.signal.recv()).await);
                tokio::select! {
                    biased;
                    _ = answered => false,
                    interrupt = self.signal.recv() => interrupt.is_some(),
                }
            });
            if interrupted {
                // Fails only when the connection is closed already.
                connection.shutdown(Shutdown::Both).ok();
            }
            (asking.join(), interrupted)
        });
        match result {
            _ if interrupted => {
                Err(Failure::new(Exit::NotWell, format!("the query to {module} was cancelled"), ""))
            }
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
