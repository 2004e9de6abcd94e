//! Ctrl-C while answers are waited for: the first asks for what was found so far, the second gives up.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use vigie_protocol::control::Request;

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::print;

/// Takes SIGINT from now on, as long as the process lives.
pub(crate) struct Interrupts {
    signals: Mutex<mpsc::Receiver<()>>,
}

/// The connections on which answers are waited for.
#[derive(Default)]
pub(crate) struct Connections(Mutex<Vec<UnixStream>>);

impl Connections {
    /// Adds one that a question is about to be asked on.
    pub(crate) fn add(&self, client: &Client) -> Result<(), Failure> {
        self.lock().push(client.handle()?);
        Ok(())
    }

    /// Has every module return what it has found so far.
    fn stop(&self) {
        let mut line = serde_json::to_vec(&Request::Stop {}).unwrap_or_default();
        line.push(b'\n');
        for mut connection in self.lock().iter() {
            // Fails only when the connection is closed already.
            connection.write_all(&line).ok();
        }
    }

    /// Closes every connection, at which the agent gives the queries up.
    pub(crate) fn close(&self) {
        for connection in self.lock().iter() {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<UnixStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often Ctrl-C was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    Never,
    /// What there was has been asked for.
    Stopped,
    /// The connections were closed.
    GivenUp,
}

impl Interrupts {
    /// Begins to take SIGINT.
    pub(crate) fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut pressed = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        let (sender, signals) = mpsc::channel();
        thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
            runtime.block_on(async { while pressed.recv().await.is_some() && sender.send(()).is_ok() {} });
        })?;
        Ok(Self { signals: Mutex::new(signals) })
    }

    /// Does `work`, which waits for answers on `connections`; Ctrl-C stops the questions, and again ends the wait.
    pub(crate) fn during<T: Send>(
        &self,
        connections: &Connections,
        work: impl FnOnce() -> T + Send,
    ) -> (T, Interrupted) {
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        // One that came while nothing was asked ends nothing that is asked later.
        while signals.try_recv().is_ok() {}
        thread::scope(|scope| {
            let (over, done) = mpsc::channel::<()>();
            let working = scope.spawn(move || {
                let _over = over;
                work()
            });
            let mut interrupted = Interrupted::Never;
            let mut looks_since = 0;
            // A channel cannot wait for two things; nobody presses a key faster than this.
            while done.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                looks_since += u32::from(interrupted == Interrupted::Stopped);
                // A module that cannot stop is given up as well.
                if signals.try_recv().is_err() && looks_since < LOOKS_TO_STOP {
                    continue;
                }
                interrupted = match interrupted {
                    Interrupted::Never => {
                        looks_since = 0;
                        print::note("stopping: what was found so far follows");
                        connections.stop();
                        Interrupted::Stopped
                    }
                    _ => {
                        looks_since = 0;
                        connections.close();
                        Interrupted::GivenUp
                    }
                };
            }
            match working.join() {
                Ok(result) => (result, interrupted),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Looks at the keyboard during which a module may come to its end.
const LOOKS_TO_STOP: u32 = 60;

/// Time between two checks of the keyboard.
const LOOK: Duration = Duration::from_millis(50);

/// What a question that was given up answers.
pub(crate) fn given_up(what: &str) -> Failure {
    Failure::new(Exit::NotWell, format!("{what} was cancelled"), "")
}
