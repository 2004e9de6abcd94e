//! Action files and the console.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Host, Ran, Settings, VIGIE, module, persistent, standard, wait_until};

fn host(rest: &str) -> Host {
    Host::new(&Settings::default(), rest)
}

fn values(lines: &str) -> Vec<Value> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Writes an action file and asks it.
fn ask(host: &Host, action: &Value, arguments: &[&str]) -> Ran {
    let path = host.path("action.json");
    fs::write(&path, action.to_string()).unwrap();
    host.vigie(&[&["query", "-i", path.to_str().unwrap()], arguments].concat())
}

/// Runs a console with these lines as its input.
fn console(host: &Host, lines: &str) -> Ran {
    let mut child = Command::new(VIGIE)
        .args(["console", "--run-dir"])
        .arg(host.path("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn the_operations_of_an_action_are_answered_in_the_order_of_the_file() {
    let host = host(&(persistent("echo.py", &[]) + &standard("standard_echo.sh")));
    let _agent = host.start();
    host.wait_ready("echo");
    let operations: Vec<Value> = (0..40)
        .map(|number| {
            let module = if number % 4 == 0 { "standard_echo" } else { "echo" };
            json!({"module": module, "parameters": {"number": number}})
        })
        .collect();
    let action = json!({"name": "numbers", "target": "all", "pgpsignatures": [], "operations": operations});

    let ran = ask(&host, &action, &["--json"]);

    let answers = values(&ran.out);
    assert_eq!((ran.code, answers.len()), (0, 40), "{ran:?}");
    for (at, answer) in answers.iter().enumerate() {
        assert_eq!(answer["operation"], at + 1);
        assert_eq!(answer["module"], operations[at]["module"]);
        assert_eq!(answer["result"]["elements"]["parameters"], json!({"number": at}), "{answer}");
    }
    assert_eq!(ran.err.lines().count(), 2, "{ran:?}");
    assert!(ran.err.contains("pgpsignatures, target (name one with -t)"), "{ran:?}");
}

#[test]
fn the_operations_of_an_action_are_asked_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let meeting = directory.path().join("meeting");
    let meeting = meeting.to_str().unwrap();
    nix::unistd::mkfifo(meeting, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // Opening a FIFO waits for the other side: neither can answer before both have been asked.
    let script =
        |redirect: &str| format!("read -r request; exec 3{redirect}{meeting}; echo '{{\"success\":true}}'");
    let configured = |name: &str, redirect: &str| {
        let command = serde_json::to_string(&["/bin/sh", "-c", &script(redirect)]).unwrap();
        format!("[[module]]\nname = \"{name}\"\nkind = \"standard\"\ncommand = {command}\n")
    };
    let host = host(&(configured("gives", ">") + &configured("takes", "<")));
    let _agent = host.start();

    let action = json!({"operations": [{"module": "gives"}, {"module": "takes"}]});
    let ran = ask(&host, &action, &["--timeout", "20s"]);

    assert_eq!((ran.code, values(&ran.out).len()), (0, 2), "{ran:?}");
}

#[test]
fn an_operation_that_fails_does_not_stop_the_others_and_is_told_by_the_exit_code() {
    let modules = standard("standard_echo.sh") + &module("standard", "fails", "standard_fails.sh", &[], "");
    let host = host(&modules);
    let _agent = host.start();
    let action =
        json!({"operations": [{"module": "nosuch"}, {"module": "fails"}, {"module": "standard_echo"}]});

    let ran = ask(&host, &action, &[]);
    let for_people = ask(&host, &action, &["--human"]);

    let answers = values(&ran.out);
    assert_eq!((ran.code, answers.len()), (1, 3), "{ran:?}");
    let message = answers[0]["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("nosuch"), "{answers:?}");
    assert_ne!(answers[1]["result"]["success"], true, "{answers:?}");
    assert_eq!(answers[2]["result"]["success"], true, "{answers:?}");
    assert_eq!(for_people.code, 1);
    for said in ["operation 1 nosuch: not answered", "operation 3 standard_echo: found"] {
        assert!(for_people.out.contains(said), "{for_people:?}");
    }
}

#[test]
fn a_wrong_action_is_refused_before_anything_is_asked() {
    let host = host(&standard("standard_echo.sh"));
    let good = json!({"module": "standard_echo"});

    let without_agent = ask(&host, &json!({"operations": [good]}), &[]);
    assert_eq!((without_agent.code, without_agent.out.as_str()), (69, ""), "{without_agent:?}");
    assert!(without_agent.err.contains("vigie agent"), "{without_agent:?}");

    let _agent = host.start();
    let wrong = ask(&host, &json!({"operations": [good, {"modul": "standard_echo"}]}), &[]);
    assert_eq!((wrong.code, wrong.out.as_str()), (64, ""), "{wrong:?}");
    assert!(wrong.err.contains("action.json") && wrong.err.contains("operation 2: module: "), "{wrong:?}");
    let absent = host.vigie(&["query", "-i", "/nonexistent/action.json"]);
    assert_eq!((absent.code, absent.out.as_str()), (74, ""), "{absent:?}");
    let queries = &host.status()["queries"];
    assert_eq!((&queries["answered"], &queries["failed"]), (&json!(0), &json!(0)));
}

#[test]
fn the_console_builds_shows_and_asks_without_a_terminal() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");

    let lines =
        "# two queries\nmodule echo\nset param 'a=x y' n:=5\nshow\nrun\nunset param\nrun\nquit\nnosuch\n";
    let ran = console(&host, lines);

    let printed = values(&ran.out);
    assert_eq!((ran.code, ran.err.as_str(), printed.len()), (0, "", 3), "{ran:?}");
    assert_eq!(printed[0], json!({"module": "echo", "parameters": {"a": "x y", "n": 5}}));
    assert_eq!(printed[1]["elements"]["parameters"], json!({"a": "x y", "n": 5}));
    assert_eq!(printed[2]["success"], true);
}

#[test]
fn what_the_console_shows_can_be_asked_as_an_action() {
    let host = host(&standard("standard_echo.sh"));
    let _agent = host.start();

    let shown = console(&host, "module standard_echo\nset param path=/etc\nshow\n");
    let ran = ask(&host, &json!({"operations": values(&shown.out)}), &[]);

    let answers = values(&ran.out);
    assert_eq!(answers[0]["result"]["elements"]["parameters"], json!({"path": "/etc"}), "{ran:?}");
}

#[test]
fn the_console_goes_on_after_an_error_and_its_exit_code_tells_it() {
    let host = host("");

    let ran =
        console(&host, "nosuch\nmodule netstat\nset listening-prt 22\nset listening-port 22\nrun\nshow\n");

    assert_eq!(ran.code, 1, "{ran:?}");
    for said in ["line 1: unknown command", "line 3: netstat has no flag", "line 5: no agent answers"] {
        assert!(ran.err.contains(said), "{said}: {ran:?}");
    }
    assert_eq!(values(&ran.out), [json!({"module": "netstat", "parameters": {"listeningport": ["22"]}})]);
}

#[test]
fn at_a_terminal_the_console_prompts_completes_and_remembers() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(&size, None).unwrap();
    let side = || Stdio::from(File::from(terminal.slave.try_clone().unwrap()));
    let child = Command::new(VIGIE)
        .args(["console", "--run-dir"])
        .arg(host.path("run"))
        .env("XDG_STATE_HOME", host.path("home"))
        .env("TERM", "xterm")
        .env("NO_COLOR", "1")
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap();
    drop(terminal.slave);
    let mut child = Ended(child);
    let mut screen = Screen::new(File::from(terminal.master));

    screen.wait("vigie> ");
    screen.keys("module ec\t\r");
    screen.wait("vigie echo> ");
    // The second line is typed before there is a prompt for it.
    screen.keys("set par\t a=b\rshow\r");
    screen.wait("\"a\": \"b\"");
    screen.wait("vigie echo> ");
    // As terminals tell that text is pasted; the line feed in it is not the end of the entry.
    screen.keys("\u{1b}[200~set param a=c\nrun\u{1b}[201~\r");
    screen.wait("echo: found");
    screen.wait("vigie echo> ");
    screen.keys("quit\r");

    let status = wait_until("the console ends", || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let path = host.path("home/vigie/console_history");
    let history = fs::read_to_string(&path).unwrap();
    assert!(history.contains("module echo\nset param a=b\nshow\nset param a=c\\nrun\nquit\n"), "{history:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// A child that does not outlive its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Only this very child, and nothing when it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The side of a terminal where a person sits.
struct Screen {
    master: File,
    shown: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Screen {
    fn new(master: File) -> Self {
        let shown = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (mut reader, seen) = (master.try_clone().unwrap(), shown.clone());
        // Ends with the last program at the terminal: reading fails then.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = std::io::Read::read(&mut reader, &mut bytes) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { master, shown }
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown, and forgets what was shown before.
    fn wait(&self, text: &str) {
        wait_until(&format!("the terminal shows {text:?}"), || {
            let mut shown = self.shown.lock().unwrap();
            let at = shown.find(text)?;
            shown.drain(..at + text.len());
            Some(())
        });
    }
}
