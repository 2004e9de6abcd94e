//! `vigie top` on a real terminal: what it shows, and that the terminal is given back as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use nix::unistd::Pid;
use rustix::termios::{Winsize as NewSize, tcsetwinsize};
use serde_json::json;

use crate::harness::{Host, Settings, VIGIE, persistent, wait_until};

/// `vigie top` and the person's side of its terminal.
struct Top {
    child: Child,
    master: File,
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    before: (LocalFlags, OutputFlags),
}

fn modes(terminal: &OwnedFd) -> (LocalFlags, OutputFlags) {
    let modes = tcgetattr(terminal).unwrap();
    (modes.local_flags, modes.output_flags)
}

impl Top {
    fn start(host: &Host, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = nix::pty::openpty(&size, None).unwrap();
        let side = || Stdio::from(terminal.slave.try_clone().unwrap());
        let before = modes(&terminal.slave);
        let child = Command::new(VIGIE)
            .args(["top", "--interval", "100ms", "--run-dir"])
            .arg(host.path("run"))
            .env("TERM", "xterm")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let master = File::from(terminal.master);
        let (mut reader, shown) = (master.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, master, slave: terminal.slave, screen, before }
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn shown(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        wait_until(&format!("the screen shows {what}"), || {
            let text = self.shown();
            if text != last {
                println!("{text}\n----");
                last.clone_from(&text);
            }
            Some(text).filter(|text| is_so(text))
        })
    }

    fn wait_text(&self, text: &str) -> String {
        self.wait(text, |shown| shown.contains(text))
    }

    /// Waits for the end, and checks that the terminal is as it was.
    fn ended(&mut self) -> std::process::ExitStatus {
        let status = wait_until("top ends", || self.child.try_wait().unwrap());
        assert_eq!(modes(&self.slave), self.before, "the terminal's modes");
        wait_until("the first screen is back", || {
            let screen = self.screen.lock().unwrap();
            (!screen.screen().alternate_screen() && !screen.screen().hide_cursor()).then_some(())
        });
        status
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // Only this very child, and nothing when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn host() -> Host {
    let modules = [persistent("echo.py", &[]), persistent("says.py", &[])].concat();
    Host::new(&Settings { heartbeat: "300ms", ..Settings::default() }, &modules)
}

#[test]
fn modules_and_alerts_are_shown_as_they_come_and_looked_into() {
    let host = host();
    let _agent = host.start();
    host.wait_ready("echo");
    host.wait_ready("says");

    let mut top = Top::start(&host, 24, 80);
    let first = top.wait("rates of a running module", |text| {
        text.lines().any(|line| line.contains("echo ") && line.contains("running") && line.contains('%'))
    });
    assert!(first.contains("healthy") && first.lines().count() <= 24, "{first}");
    assert!(first.contains("q quit"), "{first}");

    let answer = host.query("says", &json!({"texts": ["\u{1b}]0;owned\u{7}new\u{9b}2J"]}));
    assert_eq!(answer["result"]["success"], true, "{answer}");
    let text = top.wait_text("new");
    assert!(text.contains(r"\u{1b}]0;owned\u{7}new\u{9b}2J"), "{text}");
    assert!(text.contains("healthy"), "{text}");

    top.keys("Gt");
    top.wait_text("tap of ");
    top.wait_text("<--");
    top.keys("\u{1b}");
    top.wait_text("q quit  ↑↓ select  Tab next pane");

    let small = NewSize { ws_row: 10, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&top.slave, small).unwrap();
    top.screen.lock().unwrap().screen_mut().set_size(10, 40);
    top.wait("the small window", |text| {
        text.contains("echo")
            && text.contains("says")
            && text.lines().last().is_some_and(|last| last.starts_with("q quit"))
    });

    top.keys("q");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn an_agent_that_goes_away_is_waited_for() {
    let host = host();
    let agent = host.start();
    host.wait_ready("echo");
    let mut top = Top::start(&host, 24, 80);
    top.wait_text("healthy");

    agent.stop();
    top.wait_text("no agent answers");
    let _agent = host.start();
    top.wait_text("healthy");

    top.keys("\u{3}");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn a_signal_ends_it_with_the_terminal_as_it_was() {
    let host = host();
    let _agent = host.start();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut top = Top::start(&host, 24, 80);
        top.wait_text("echo");
        assert_ne!(modes(&top.slave), top.before, "it takes keys one by one");

        kill(Pid::from_raw(top.child.id().cast_signed()), signal).unwrap();

        let status = top.ended();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
    }
}

#[test]
fn without_a_terminal_it_says_what_programs_read() {
    let host = host();

    let ran = host.vigie(&["top"]);

    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(ran.err.contains("needs a terminal") && ran.err.contains("vigie status --json"), "{ran:?}");
    assert_eq!(ran.out, "");
}
