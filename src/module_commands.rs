//! `vigie module restart`, `logs` and `tap`.

use std::path::Path;
use std::time::Duration;

use vigie_protocol::control::{ModuleLine, Reply, Request};
use vigie_protocol::module_name::ModuleName;

use crate::client::{self, Client, ClientError, PROMPT};
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, safe};

/// The longest that the agent may be configured to let a module end, and time to start it.
const LONGEST_RESTART: Duration = Duration::from_secs(5 * 60 + 30);

/// Carries out `module restart`.
pub(crate) fn restart(name: &ModuleName, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    match client::ask(socket, &Request::Restart { module: name.to_string() }, LONGEST_RESTART)? {
        Reply::Restarted { module, pid } if !printer.is_json() => {
            printer.line(&format!("{module} was restarted, its process is {pid}"))?;
        }
        reply @ Reply::Restarted { .. } => printer.json(&reply)?,
        other => return Err(client::unexpected(&other)),
    }
    Ok(Exit::Ok)
}

/// Carries out `module logs`.
pub(crate) fn logs(
    name: &ModuleName,
    follow: bool,
    socket: &Path,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    stream(&Request::Logs { module: name.to_string(), follow }, follow, socket, printer)
}

/// Carries out `module tap`.
pub(crate) fn tap(name: &ModuleName, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    stream(&Request::Tap { module: name.to_string() }, true, socket, printer)
}

/// Prints lines until the stream ends.
fn stream(request: &Request, endless: bool, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut client = Client::connect(socket)?;
    client.send(request, if endless { None } else { Some(PROMPT) })?;
    loop {
        match client.receive()? {
            Reply::Line(line) if printer.is_json() => printer.json(&line)?,
            Reply::Line(line) => {
                let text = render(&line, printer.paint());
                printer.line(&text)?;
            }
            Reply::End {} if endless => return Err(ClientError::Closed.into()),
            Reply::End {} => return Ok(Exit::Ok),
            other => return Err(client::unexpected(&other)),
        }
    }
}

/// Where a line comes from; arrows show the direction of a tapped message.
pub(crate) fn source(name: &str) -> (Tone, &str) {
    match name {
        "to_module" => (Tone::Faint, "-->"),
        "from_module" => (Tone::Good, "<--"),
        "stderr" => (Tone::Doubtful, "stderr"),
        other => (Tone::Plain, other),
    }
}

/// One line for people.
fn render(line: &ModuleLine, paint: Paint) -> String {
    let (tone, source) = source(&line.source);
    format!(
        "{} {} {}",
        paint.text(Tone::Faint, &safe(&line.time)),
        paint.text(tone, &safe(source)),
        safe(&line.text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::fake_agent;
    use crate::print::tests::Captured;

    fn line(source: &str, text: &str) -> ModuleLine {
        ModuleLine {
            time: "2026-11-23T06:29:22.123Z".to_owned(),
            source: source.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_line_for_people() {
        let text = |source, text| render(&line(source, text), Paint::new(false));

        assert_eq!(text("log", "a\u{1b}"), r"2026-11-23T06:29:22.123Z log a\u{1b}");
        assert_eq!(
            text("to_module", r#"{"class":"ping"}"#),
            r#"2026-11-23T06:29:22.123Z --> {"class":"ping"}"#
        );
    }

    #[test]
    fn lines_are_printed_until_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let replies = [Reply::Line(line("log", "one")), Reply::Line(line("stderr", "two")), Reply::End {}];
        let replies =
            replies.iter().map(|reply| format!("{}\n", serde_json::to_string(reply).unwrap())).collect();
        let agent = fake_agent(&socket, vec![replies]);
        let captured = Captured::default();
        let mut printer = Printer::into(Box::new(captured.clone()), false);

        let exit = logs(&"fswatch".parse().unwrap(), false, &socket, &mut printer).unwrap();

        assert_eq!(exit, Exit::Ok);
        assert_eq!(
            captured.text(),
            "2026-11-23T06:29:22.123Z log one\n2026-11-23T06:29:22.123Z stderr two\n"
        );
        assert_eq!(agent.join().unwrap(), ["{\"logs\":{\"module\":\"fswatch\",\"follow\":false}}\n"]);
    }

    #[test]
    fn a_restart_names_the_new_process() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let agent = fake_agent(
            &socket,
            vec![vec!["{\"restarted\":{\"module\":\"fswatch\",\"pid\":42}}\n".to_owned()]],
        );
        let captured = Captured::default();
        let mut printer = Printer::into(Box::new(captured.clone()), false);

        restart(&"fswatch".parse().unwrap(), &socket, &mut printer).unwrap();

        agent.join().unwrap();
        assert_eq!(captured.text(), "fswatch was restarted, its process is 42\n");
    }
}
