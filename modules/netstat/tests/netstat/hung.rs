//! A process whose directory does not respond.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_netstat::Netstat;
use vigie_sdk::Query;

/// Somebody mounts a file system that never responds over a process's directory, in mounts of this thread's own.
fn hang(pid: u32) -> Option<File> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
    let mount = |arguments: &[&str], device: Option<File>| {
        let stdin = device.map_or_else(Stdio::null, Stdio::from);
        Command::new("mount").args(arguments).stdin(stdin).stderr(Stdio::null()).status()
    };
    mount(&["--make-rprivate", "/"], None).ok()?;
    let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
    let point = format!("/proc/{pid}");
    let mounted = mount(&["-i", "-t", "fuse", "-o", options, "hung", &point], device.try_clone().ok());
    mounted.is_ok_and(|status| status.success()).then_some(device)
}

/// What is answered while the process with the last number does not respond.
fn ask_while_one_hangs(parameters: Value, pid: u32) -> Option<Value> {
    let answered = std::thread::spawn(move || {
        let device = hang(pid)?;
        let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
        query.deadline = Some((jiff::Timestamp::now() + Duration::from_secs(4)).to_string());
        let result = vigie_sdk::watched::<Netstat>(query);
        // Whoever waits for it is let go.
        drop(device);
        Some(serde_json::to_value(&result).unwrap())
    });
    answered.join().unwrap()
}

#[test]
fn a_process_that_does_not_respond_costs_neither_the_sockets_nor_their_other_owners() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut hung = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = hung.id();
    let own = std::process::id();
    let answers = [
        json!({"listeningport": [&port], "processes": true}),
        json!({"listeningport": [&port], "executable": ["."]}),
        json!({"listeningport": [&port], "namespaces": true}),
    ]
    .map(|parameters| ask_while_one_hangs(parameters, pid));
    hung.kill().unwrap();
    hung.wait().unwrap();

    for (place, answer) in answers.into_iter().enumerate() {
        let Some(answer) = answer else {
            return vigie_skipped::skipped("no FUSE file system can be mounted");
        };
        assert!(answer["foundanything"] == true && answer["success"] == false, "{answer}");
        let found = &answer["elements"]["listeningport"][&port][0];
        assert_eq!(found["localport"], port.parse::<u16>().unwrap(), "{answer}");
        if place < 2 {
            assert_eq!(found["processes"][0]["pid"], own, "{answer}");
        }
        let coverage = &answer["coverage"];
        assert_eq!(coverage["complete"], false, "{answer}");
        assert!(coverage["not_examined"].to_string().contains("the rest"), "{answer}");
        assert!(
            answer["errors"].to_string().contains(&format!("process {pid} does not respond")),
            "{answer}"
        );
    }
}
