//! The life of a standard module: one request on stdin, one result on stdout.

use std::io::{BufRead, BufWriter, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::module::{Query, StandardModule, now};
use crate::request::Request;
use vigie_protocol::message::{Class, DEFAULT_MAX_RESULT_BYTES, Message, MessageRef};
use vigie_protocol::result::{Coverage, ModuleResult};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = DEFAULT_MAX_RESULT_BYTES;

/// Exit code when the result cannot be written: `EX_IOERR` of sysexits.h.
const EXIT_IO: u8 = 74;

/// Runs a standard module: reads one `parameters` message from stdin, prints one result and exits with 0, also
/// when the result says what went wrong. A `stop` message that comes meanwhile asks the module to return what it
/// has; the end of stdin does not, because the agent closes it after the request.
pub fn run_standard<M: StandardModule>() -> ExitCode {
    let mut stdin = std::io::stdin().lock();
    let result = match read_request(&mut stdin) {
        Ok(mut request) => {
            if request.progress {
                // A line that is not taken concerns the result, which comes after it, as well.
                request.query = request.query.reporting_to(|progress| {
                    let mut stdout = std::io::stdout().lock();
                    let line = Message::progress(progress).to_line();
                    drop(stdout.write_all(&line).and_then(|()| stdout.flush()));
                });
            }
            // The lock cannot move to another thread, but the reader's buffer behind it is shared.
            drop(stdin);
            let stopped = Arc::clone(&request.query.stopped);
            std::thread::spawn(move || watch_for_stop(&mut std::io::stdin().lock(), &stopped));
            watched::<M>(request.query)
        }
        Err(error) => ModuleResult::failed([error]),
    };
    finish(|stdout| result.write_line(stdout))
}

/// Time between two looks whether a module was asked to stop.
const LOOK: Duration = Duration::from_millis(20);

/// How long a module may take to return what it has after it was asked to stop, when there is no deadline before that.
const WINDING_UP: Duration = Duration::from_secs(5);

/// How long it may take then to make an answer of what was found so far.
const SO_FAR: Duration = Duration::from_millis(500);

/// Stack of the thread that a module runs on, in bytes: as large as the main thread's usually is.
const STACK_BYTES: usize = 8 << 20;

const LATE: &str =
    "the module did not return in time: a disk, or the server of a file system, may not respond";

/// Runs the module on a thread of its own. When the kernel does not let that go, because a disk or the server of a file
/// system does not respond, there is still an answer in time: what the module found so far, or that nothing is known.
/// So does [`run_standard`]; a module's own tests call it.
pub fn watched<M: StandardModule>(query: Query) -> ModuleResult {
    let (sender, answer) = mpsc::channel();
    let own = query.clone();
    let work = move || drop(sender.send(M::run(&own)));
    let Ok(thread) = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work) else {
        return M::run(&query);
    };
    let mut asked_to_stop_at = None;
    loop {
        let due = query.deadlines().map(|deadlines| deadlines.so_far);
        let look = due.map_or(LOOK, |due| due.saturating_duration_since(now()).min(LOOK));
        match answer.recv_timeout(look) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return ModuleResult::failed(["the module ended without an answer".to_owned()]),
            },
        }
        let is_wound_up = query.stopped.load(Ordering::Relaxed)
            && asked_to_stop_at.get_or_insert_with(now).elapsed() >= WINDING_UP;
        if is_wound_up || due.is_some_and(|due| due <= now()) {
            return found_so_far(&query, &answer);
        }
    }
}

/// The answer of a module that does not answer in time. It is made on another thread: what is needed for it may be held
/// as well. When the module is about to answer, or said nothing, its `own` answer is waited for.
fn found_so_far(query: &Query, own: &mpsc::Receiver<ModuleResult>) -> ModuleResult {
    let soon = now() + SO_FAR;
    let until = query.deadlines().map_or(soon, |deadlines| soon.min(deadlines.answer));
    let left = || until.saturating_duration_since(now());
    let answer = if let Some(so_far) = query.so_far.take() {
        let (sender, answer) = mpsc::channel();
        // Without a thread the sender is gone, and nothing is waited for.
        drop(std::thread::Builder::new().spawn(move || drop(sender.send(so_far()))));
        answer.recv_timeout(left())
    } else {
        match own.recv_timeout(left()) {
            Ok(result) => return result,
            Err(error) => Err(error),
        }
    };
    let (mut result, rest) = match answer {
        Ok(result) => (result, "the rest"),
        Err(_) => (ModuleResult::default(), "everything"),
    };
    let mut coverage = result.coverage.take().unwrap_or_else(Coverage::whole);
    coverage.skip(rest, LATE);
    result.success = false;
    result.errors.get_or_insert_default().push(LATE.to_owned());
    result.with_coverage(coverage)
}

/// Writes the answer to stdout.
pub(crate) fn print(line: &[u8]) -> ExitCode {
    finish(|stdout| stdout.write_all(line))
}

/// Tells by the exit code whether stdout took the answer.
fn finish(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> ExitCode {
    // An answer can have many megabytes: it is neither copied nor written by the line.
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_IO),
    }
}

/// Reads one request, ended by a line feed or the end of the stream.
pub(crate) fn read_request(reader: &mut impl BufRead) -> Result<Request, String> {
    match read_line(reader) {
        Ok(Some(line)) => Request::parse(&line),
        Ok(None) => Err("stdin ended without a request: expected one parameters message".to_owned()),
        Err(error) => Err(format!("cannot read the request from stdin: {error}")),
    }
}

/// Reads a line of bounded length; `None` at the end.
fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
    if line.len() > MAX_LINE_BYTES && line.last() != Some(&b'\n') {
        let limit = format!("it is longer than {MAX_LINE_BYTES} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, limit));
    }
    Ok((!line.is_empty()).then_some(line))
}

/// Reads on until a `stop` message or the end of the stream.
fn watch_for_stop(reader: &mut impl BufRead, stopped: &AtomicBool) {
    while let Ok(Some(line)) = read_line(reader) {
        let stop = std::str::from_utf8(&line)
            .is_ok_and(|line| MessageRef::parse(line).is_ok_and(|message| message.class == Class::Stop));
        if stop {
            stopped.store(true, Ordering::Relaxed);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_lack_its_line_feed() {
        let mut stdin = &b"{\"class\":\"parameters\",\"parameters\":{\"a\":1}}"[..];

        let request = read_request(&mut stdin).unwrap();

        assert_eq!(request.query.parameters.unwrap().get(), r#"{"a":1}"#);
    }

    /// A module that a file system holds for ever.
    struct Held;

    impl StandardModule for Held {
        const NAME: &'static str = "held";

        fn run(_: &Query) -> ModuleResult {
            loop {
                std::thread::park();
            }
        }
    }

    #[test]
    fn a_module_that_the_host_holds_has_an_answer_all_the_same() {
        let mut query = Query::new(None);
        query.deadline = Some((jiff::Timestamp::now() + Duration::from_secs(2)).to_string());

        let result = watched::<Held>(query);

        assert!(result.is_not_known());
        assert!(result.errors.unwrap()[0].contains("did not return in time"));
    }

    /// A module that found something before a file system held it.
    struct HeldLater;

    impl StandardModule for HeldLater {
        const NAME: &'static str = "held-later";

        fn run(query: &Query) -> ModuleResult {
            let mut coverage = Coverage::whole();
            coverage.skip("/srv", "no permission");
            let _kept = query.keep(move || ModuleResult::found(true, &["first"]).with_coverage(coverage));
            Held::run(query)
        }
    }

    #[test]
    fn what_was_found_before_the_host_held_the_module_is_its_answer() {
        let deadline = jiff::Timestamp::now() + Duration::from_secs(2);
        let mut query = Query::new(None);
        query.deadline = Some(deadline.to_string());

        let result = watched::<HeldLater>(query);

        assert!(jiff::Timestamp::now() < deadline);
        assert_eq!(result.elements.unwrap().get(), r#"["first"]"#);
        assert!(result.foundanything && !result.success);
        let coverage = result.coverage.unwrap();
        assert!(!coverage.complete);
        let skipped: Vec<&str> = coverage.not_examined.iter().map(|entry| entry.what.as_str()).collect();
        assert_eq!(skipped, ["/srv", "the rest"]);
    }

    #[test]
    fn the_findings_are_the_modules_own_answer_or_that_of_what_was_found_so_far_and_never_lost_between_both()
    {
        let findings = Arc::new(std::sync::Mutex::new(vec!["first"]));
        let taking = Arc::clone(&findings);
        let take = move || {
            let taken = std::mem::take(&mut *taking.lock().unwrap());
            ModuleResult::found(!taken.is_empty(), &taken)
        };
        let (sender, own) = mpsc::channel();

        // The module was first, and is not ready when nobody waits for it any longer.
        let query = Query::new(None);
        let kept = query.keep(take.clone());
        let (taken, is_taken) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            scope.spawn(move || {
                let answer = kept.answer(|| {
                    let result = take();
                    taken.send(()).unwrap();
                    result
                });
                sender.send(answer).unwrap();
            });
            is_taken.recv().unwrap();
            found_so_far(&query, &own)
        });
        assert!(result.foundanything && result.success, "{result:?}");

        // The other one was first.
        findings.lock().unwrap().push("second");
        let query = Query::new(None);
        let taking = Arc::clone(&findings);
        let kept = query.keep(move || ModuleResult::found(true, &*taking.lock().unwrap()));
        let result = found_so_far(&query, &own);
        assert!(result.foundanything && !result.success, "{result:?}");
        assert!(!kept.answer(|| panic!("it was taken")).success);
    }

    #[test]
    fn a_module_that_was_asked_to_stop_and_is_held_whole_is_not_waited_for_until_its_deadline() {
        let mut query = Query::new(None);
        query.deadline = Some((jiff::Timestamp::now() + Duration::from_secs(600)).to_string());
        let _kept = query.keep(|| Held::run(&Query::new(None)));
        let begun = now();

        let result = found_so_far(&query, &mpsc::channel().1);

        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(result.is_not_known());
    }

    /// A module whose findings are held as well.
    struct HeldWhole;

    impl StandardModule for HeldWhole {
        const NAME: &'static str = "held-whole";

        fn run(query: &Query) -> ModuleResult {
            let _kept = query.keep(|| Held::run(&Query::new(None)));
            Held::run(query)
        }
    }

    #[test]
    fn findings_that_the_host_holds_are_not_waited_for() {
        let deadline = jiff::Timestamp::now() + Duration::from_secs(2);
        let mut query = Query::new(None);
        query.deadline = Some(deadline.to_string());

        let result = watched::<HeldWhole>(query);

        assert!(jiff::Timestamp::now() < deadline);
        assert_eq!(result.coverage.unwrap().not_examined[0].what, "everything");
    }

    #[test]
    fn what_is_not_a_request_is_said() {
        for (stdin, expected) in [
            (&b""[..], "ended without a request"),
            (b"\n", "empty"),
            (b"hello\n", "not understood"),
            (b"{\"class\":\"parameters\"", "not understood"),
            (b"{\"class\":\"ping\"}\n", "unexpected input is not module parameters"),
        ] {
            let error = read_request(&mut &stdin[..]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_endless_line_is_refused_with_bounded_memory() {
        let mut endless = std::io::BufReader::new(std::io::repeat(b' '));

        let error = read_request(&mut endless).unwrap_err();

        assert!(error.contains("longer than"), "{error}");
    }

    #[test]
    fn stop_stops_and_the_end_of_the_stream_does_not() {
        let stopped = AtomicBool::new(false);
        watch_for_stop(&mut &b"garbage\n{\"class\":\"ping\"}\n"[..], &stopped);
        assert!(!stopped.load(Ordering::Relaxed));

        watch_for_stop(&mut &b"garbage\n{\"class\":\"stop\"}\n"[..], &stopped);

        assert!(stopped.load(Ordering::Relaxed));
    }
}
