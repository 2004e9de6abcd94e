//! What must be there all the time: the guard, the sockets, the word to the service manager.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Agent, Host, IMPATIENT, Settings, persistent, signal, wait_until};

fn host() -> Host {
    Host::new(&IMPATIENT, &persistent("echo.py", &[]))
}

/// Children of the agent that run this command.
fn children(agent: &Agent<'_>, command: &str) -> Vec<i32> {
    let parent = agent.pid().to_string();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.split_whitespace().nth(1) == Some(parent.as_str()))
                && words.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
        })
        .collect()
}

fn child(agent: &Agent<'_>, command: &str) -> i32 {
    wait_until(command, || children(agent, command).first().copied())
}

#[test]
fn a_guard_that_is_stopped_is_replaced_and_no_stop_waits_for_it() {
    let host = host();
    let agent = host.start();
    host.wait_ready("echo");
    let first = child(&agent, "guard");

    signal(&json!(first), Signal::SIGSTOP);
    let second =
        wait_until("another guard", || children(&agent, "guard").into_iter().find(|pid| *pid != first));
    wait_until("the stopped one is gone", || (!children(&agent, "guard").contains(&first)).then_some(()));

    signal(&json!(second), Signal::SIGSTOP);
    assert_eq!(agent.stop(), Some(0));
    wait_until("it is gone with the agent", || {
        (!PathBuf::from(format!("/proc/{second}")).exists()).then_some(())
    });
}

#[test]
fn processes_that_write_files_are_replaced_when_they_are_killed() {
    let host = Host::new(&IMPATIENT, &persistent("alerts_when_asked.py", &[]));
    let agent = host.start();
    host.wait_ready("alerts_when_asked");
    for number in 0..3 {
        signal(&json!(child(&agent, "write-files")), Signal::SIGKILL);
        signal(&json!(child(&agent, "write-log")), Signal::SIGKILL);
        host.query("alerts_when_asked", &json!({"id": format!("k-{number}")}));
        wait_until("the alert is recorded", || {
            (host.status()["journal"]["recorded"] == number + 1).then_some(())
        });
    }

    assert_eq!(agent.stop(), Some(0));
    assert!(host.log().contains("agent stopped"));
}

#[test]
fn processes_that_write_files_are_continued_when_they_are_stopped() {
    let host = Host::new(&IMPATIENT, &persistent("alerts_when_asked.py", &[]));
    let agent = host.start();
    host.wait_ready("alerts_when_asked");
    for command in ["write-files", "write-log"] {
        signal(&json!(child(&agent, command)), Signal::SIGSTOP);
    }
    host.query("alerts_when_asked", &json!({"id": "s"}));
    wait_until("the alert is recorded", || (host.status()["journal"]["recorded"] == 1).then_some(()));
    host.wait_log("asked for");

    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn an_agent_starts_although_the_processes_that_write_its_files_are_killed_meanwhile() {
    let host = Host::new(&IMPATIENT, &persistent("alerts_when_asked.py", &[]));
    let mut kills = 0;
    for _ in 0..5 {
        let mut agent = host.launch();
        let mut killed = BTreeSet::new();
        while killed.len() < 5 && host.connect().is_err() {
            for command in ["write-files", "write-log"] {
                let new = children(&agent, command).into_iter().find(|pid| !killed.contains(pid));
                killed.extend(new.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()));
            }
            agent.assert_runs();
        }
        kills += killed.len();
        host.wait_answers(&mut agent);
        host.wait_ready("alerts_when_asked");
        assert_eq!(agent.stop(), Some(0));
    }
    assert!(kills > 0);
}

#[test]
fn the_agents_socket_is_made_again_when_it_is_gone_also_with_its_directory() {
    let host = host();
    let agent = host.start();
    let socket = host.path("run/agent.sock");

    fs::remove_file(&socket).unwrap();
    wait_until("the socket is there again", || socket.exists().then_some(()));
    host.wait_ready("echo");
    fs::remove_dir_all(host.path("run")).unwrap();
    wait_until("the socket is there again", || socket.exists().then_some(()));

    host.status();
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn nothing_that_the_agent_inherited_reaches_a_module() {
    let host = host();
    let leak = host.path("leak");
    let script = format!("exec 7>{} 3>&7 42>&7; exec \"$@\"", leak.display());
    let agent = host.start_by(&["bash", "-c", &script, "bash"]);
    let pid = host.wait_ready("echo")["pid"].clone();

    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();

    assert!(!open.contains(&leak), "{open:?}");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn the_service_manager_hears_when_the_agent_is_ready_lives_reloads_and_stops() {
    let host = Host::new(&Settings::default(), &persistent("echo.py", &[]));
    let path = host.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let agent = host.start_by(&["env", &variable, "WATCHDOG_USEC=200000"]);
    let heard = |key: &str| loop {
        let mut datagram = [0; 512];
        let length = manager.recv(&mut datagram).unwrap();
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        if text.contains(key) {
            break text;
        }
    };

    assert!(heard("READY=1").contains("STATUS=supervises 1 module\n"));
    heard("WATCHDOG=1");
    heard("WATCHDOG=1");
    let other = persistent("echo.py", &[]).replace("\"echo\"", "\"other\"");
    host.configure(&Settings::default(), &(persistent("echo.py", &[]) + &other));
    agent.signal(Signal::SIGHUP);
    assert!(heard("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(heard("READY=1").contains("STATUS=supervises 2 modules\n"), "told before the reload was done");
    host.configure(&Settings::default(), &persistent("echo.py", &[]));
    assert_eq!(host.vigie(&["reload"]).code, 0);
    heard("STATUS=supervises 1 module\n");
    agent.signal(Signal::SIGTERM);
    heard("STOPPING=1");
}

#[test]
fn a_socket_of_a_module_that_is_gone_is_said_until_it_is_back() {
    let host = Host::new(&IMPATIENT, &persistent("echo.py", &[]));
    let _agent = host.start();
    let echo = host.wait_ready("echo");
    let path = echo["socket"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
    let away = format!("{path}.away");

    std::fs::rename(&path, &away).unwrap();

    let condition = host.wait_condition("echo", "socket-missing");
    assert!(condition["detail"].as_str().unwrap().contains("No such file"), "{condition}");
    std::fs::rename(&away, &path).unwrap();
    wait_until("it is well again", || host.condition("echo", "socket-missing").is_none().then_some(()));
}
