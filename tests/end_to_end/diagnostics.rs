//! An archive of diagnostics has nothing in it that was not asked for: secrets are planted wherever something is
//! collected.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::harness::{Host, Settings, VIGIE, module, persistent, wait_until};

/// What must not leave the host.
const CANARY: &str = "canary7f3a";

fn unpacked(path: &std::path::Path) -> String {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn secrets_that_are_planted_everywhere_are_not_in_the_archive() {
    // In names of tags, values, commands, environment, paths, conditions, the module's own file and its log.
    let rest = format!(
        "[tags]\nzone = \"{CANARY}\"\nx-{CANARY} = \"1\"\n[[module]]\nname = \"leaky\"\n\
         command = [\"/bin/sh\", \"-c\", \"echo {CANARY} >&2; exit 3\", \"{CANARY}\"]\n[module.env]\nTOKEN_{CANARY} = \"{CANARY}\"\n"
    );
    let settings = Settings { agent: "hostname = \"canary7f3a.example\"", ..Settings::default() };
    let host = Host::new(&settings, &rest);
    std::fs::write(host.path("modules.d/fswatch.cfg"), format!("[paths]\npath = /srv/{CANARY}\n")).unwrap();
    std::fs::write(host.path(&format!("modules.d/{CANARY}.cfg")), "; a file for no module\n").unwrap();
    let _agent = host.start();
    host.wait_log(CANARY);
    let (config, archive) = (host.path("vigie.toml"), host.path("d.tar.gz"));
    let words = ["diagnostics", "--config", config.to_str().unwrap(), "--out", archive.to_str().unwrap()];

    let ran = host.vigie(&words);

    assert_eq!(ran.code, 0, "{ran:?}");
    let text = unpacked(&archive);
    assert!(
        !text.contains(CANARY),
        "{}",
        text.split(CANARY).next().unwrap().lines().last().unwrap_or_default()
    );
    assert!(
        text.contains("\"files\"") && text.contains("vigie_health ") && text.contains("\"agent.stop_grace\"")
    );
    assert!(text.contains("\"leaky\"") && text.contains("the log: include it"), "{text}");
    // It is there when it is asked for.
    let all = host.path("all.tar.gz");
    let shared = [
        "diagnostics",
        "--config",
        config.to_str().unwrap(),
        "--out",
        all.to_str().unwrap(),
        "--include",
        "log",
    ];
    assert_eq!(host.vigie(&shared).code, 0);
    assert!(unpacked(&all).contains(CANARY));
    // An archive is not replaced.
    assert_eq!(host.vigie(&words).code, 74);
}

#[test]
fn sinks_the_fleet_and_what_a_module_reports_give_nothing_away() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join(format!("token-{CANARY}"));
    std::fs::write(&secret, format!("{CANARY}\n")).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sinks = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:1/services/{CANARY}\"\n\
         headers = {{ X-{CANARY} = \"{CANARY}\" }}\nsigning_key_file = \"{secret}\"\n\
         paths = [\"/srv/{CANARY}/*\"]\nrules = [\"{CANARY}\"]\n\
         [[sink]]\nname = \"program\"\nkind = \"command\"\ncommand = [\"/bin/false\", \"--password={CANARY}\"]\n",
        secret = secret.display(),
    );
    let typed = module(
        "persistent",
        "typed",
        "echo.py",
        &[],
        &format!("[module.config_types]\n\"{CANARY}.x\" = \"text\"\n"),
    );
    let rest = format!("{}{typed}{sinks}", persistent("unhealthy.py", &[&format!("token-{CANARY}-expired")]));
    let host = Host::new(&Settings::default(), &rest);
    let _agent = host.start();
    wait_until("the module's own condition stands", || {
        host.status()["conditions"].to_string().contains(CANARY).then_some(())
    });
    let (config, archive) = (host.path("vigie.toml"), host.path("d.tar.gz"));
    let words = ["diagnostics", "--config", config.to_str().unwrap(), "--out", archive.to_str().unwrap()];

    let ran = host.vigie(&words);

    assert_eq!(ran.code, 0, "{ran:?}");
    let text = unpacked(&archive);
    let before = text.split(CANARY).next().unwrap().lines().last().unwrap_or_default();
    assert!(!text.contains(CANARY), "{before}");
    assert!(text.contains("\"hook\"") && text.contains("\"program\""), "the sinks are in it: {text}");
}

#[test]
fn where_no_agent_answers_the_archive_does_not_say_where_it_was_looked_for() {
    let host = Host::new(&Settings::default(), "");
    let (config, archive) = (host.path("vigie.toml"), host.path("d.tar.gz"));
    let socket = host.path(&format!("{CANARY}/agent.sock"));
    let output = std::process::Command::new(VIGIE)
        .args(["diagnostics", "--config", config.to_str().unwrap(), "--out", archive.to_str().unwrap()])
        .args(["--socket", socket.to_str().unwrap()])
        .output()
        .unwrap();

    assert!(output.status.success(), "{output:?}");
    let text = unpacked(&archive);
    assert!(text.contains("no agent answers") && !text.contains(CANARY), "{text}");
}
